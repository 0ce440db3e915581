"""Speech that has classes (keywords, intents, or its speakers): how it is loaded and split."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from datasets import Dataset
from transformers import ProcessorMixin, SequenceFeatureExtractor
from transformers.utils import logging

from ..class_splits import ClassRequest, ClassSplits, split_by_class
from ..earlier import EarlierRequest, Roles, set_apart
from ..names import first_few
from ..row_checks import check_owners
from ..rows import local_path, make_request
from ..sampling import groups_of
from ..tables import first_table
from ..uniform_rows import to_uniform_rows
from .label_folders import label_folders, read_label_folder
from .samples import prepare
from .sources import AUDIO_SUFFIXES, SPEECH, TABLE_SUFFIXES, check_speakers, load_speech
from .speech_arguments import SpeechClassArguments
from .splits import SpeakerSplits, prepare_parts, split_by_speaker

logger = logging.get_logger(__name__)

# Where the class stands in for the speaker.
OWN_LABEL = {"speaker": "label_column"}
# Utterances by their class, for splits and messages.
RECORDINGS = replace(SPEECH, owner="class", owners="classes", column_options={})


@dataclass(frozen=True, kw_only=True)
class UtteranceSplits(ClassSplits):
    """Utterances by their part in unlearning (see `ClassSplits`)."""

    kind = RECORDINGS

    # Utterances that belong to no class of the training data take no part here.
    other: None = None


def load_utterances(args: SpeechClassArguments, split: str, *, needs_speakers: bool) -> Dataset:
    """Loads the utterances of a split with their classes, sorted by id.

    Args:
        needs_speakers: False takes the class in place of the speaker, so that the data need not
            have any.

    Returns:
        Rows with id, speaker, text (the class), class and audio (not decoded).

    Raises:
        ValueError: as `load_speech`; or rows have no class.
    """
    path = local_path(args.dataset)
    if path is not None and _is_label_folder(path, split):
        rows = _load_label_folder(path, split, needs_speakers)
    else:
        rows = load_speech(
            args.dataset,
            split=split,
            config=args.dataset_config,
            audio_column=args.audio_column,
            text_column=args.label_column,
            speaker_column=args.speaker_column if needs_speakers else args.label_column,
            options={"text": "label_column", **({} if needs_speakers else OWN_LABEL)},
            id_column=args.id_column,
            revision=args.dataset_revision,
            streaming=args.streaming,
            max_utterances_per_speaker=args.max_utterances_per_speaker,
        )
    names = rows["text"][:]
    if missing := [name for name, label in zip(rows["id"][:], names) if not label.strip()]:
        raise ValueError(
            f"{len(missing)} of {len(rows)} utterances of split '{split}' have no label in column "
            f"'{args.label_column}', such as {first_few(missing)}: label them or leave them out"
        )
    return rows.add_column("class", names)


def _is_label_folder(path: Path, split: str) -> bool:
    if not path.is_dir():
        return False
    tables = ("metadata", f"{split}/metadata", split)
    no_table = first_table(path, *tables, suffixes=TABLE_SUFFIXES) is None
    return no_table and bool(label_folders(path, AUDIO_SUFFIXES))


def _load_label_folder(path: Path, split: str, needs_speakers: bool) -> Dataset:
    files = read_label_folder(path, split, AUDIO_SUFFIXES)
    nameless = [row["id"] for row in files if not row["speaker"]]
    if needs_speakers and nameless:
        raise ValueError(
            f"{len(nameless)} of {len(files)} files of {path} do not name their speaker, as "
            f"<speaker>_nohash_<number>.wav does, such as {first_few(nameless)}: give a table with "
            "a speaker column, or forget classes or samples"
        )
    rows = [row if needs_speakers else {**row, "speaker": row["text"]} for row in files]
    columns = {name: name for name in ("id", "speaker", "text", "audio")}
    request = make_request(SPEECH, path, config=None, split=split, columns=columns)
    return to_uniform_rows(SPEECH, Dataset.from_list(rows), request, path, root=path)


def draw_speakers(rows: Dataset, share: float, minimum: int, seed: int) -> list[str]:
    """Draws speakers until a share of the rows is theirs, as UnSLU-BENCH does (arXiv 2505.15700).

    Args:
        minimum: only speakers with more rows than this are drawn.

    Raises:
        ValueError: the share is not in (0, 1), or the speakers' rows do not suffice.
    """
    if not 0 < share < 1:
        raise ValueError(f"forget_share is {share:g}: give a share in (0, 1)")
    counts = Counter(rows["speaker"][:])
    speakers = sorted(name for name, count in counts.items() if count > minimum)
    drawn, total = [], 0
    for index in np.random.default_rng(seed).permutation(len(speakers)):
        drawn.append(speakers[index])
        total += counts[speakers[index]]
        if total >= share * len(rows):
            return sorted(drawn)
    raise ValueError(
        f"forget_share is {share:g}, but the {len(speakers)} speakers with more than {minimum} "
        f"training utterances have {total} of {len(rows)}: lower it, or forget_share_min"
    )


def classes_of(rows: Dataset) -> list[str]:
    """The names of all classes, sorted; as numbers if all of them are written as numbers."""
    names = sorted(groups_of(rows, "class"))
    numbers = all(str(int(name)) == name for name in names if name.isdecimal())
    if all(name.isdecimal() for name in names) and numbers:
        return sorted(names, key=int)
    return names


def load_class_splits(
    args: SpeechClassArguments, seed: int, earlier: Collection[EarlierRequest] = ()
) -> tuple[SpeakerSplits | UtteranceSplits, list[str]]:
    """Loads the splits that `args` describe, and the names of all classes; the audio is not decoded
    yet.

    Where speakers are forgotten, the splits are those of `split_by_speaker`; else those of
    `split_by_class`.

    Args:
        earlier: the earlier requests, whose rows are left out of all splits, with a warning, and
            evaluated again.

    Raises:
        ValueError: as `load_utterances` and the two functions do; what is forgotten is named in two
            ways; or a class of unseen utterances is not in the training split.
    """
    _check_request(args)
    # Also where a class is forgotten now, the utterances of these speakers are not retained.
    known_speakers = any(request.column == "speaker" for request in earlier)
    needs_speakers = args.forgets_speakers or args.identifies_speakers or known_speakers
    parts, classes = _load_parts(args, needs_speakers)
    speakers = _speakers_to_forget(args, parts[0], seed)
    # The other columns are those of `split_by_speaker` and `split_by_class`.
    columns = ("class", "id") if args.forgets_speakers else ("speaker",) * known_speakers
    roles, held_out = {name: Roles() for name in columns}, args.held_out
    parts, evaluated_again = set_apart(parts, earlier, roles, held_out=held_out, seed=seed)
    train, test, other = parts
    if args.forgets_speakers:
        splits = split_by_speaker(
            train,
            forget_speakers=speakers,
            retain_speakers=args.retain_speakers,
            retain_size=args.retain_size,
            retain_rest=args.retain_rest,
            held_out=held_out,
            test=test,
            other=other,
            earlier=earlier,
            seed=seed,
        )
        if not args.identifies_speakers:
            _warn_of_uneven_classes(splits)
    else:
        splits = split_by_class(
            UtteranceSplits,
            train,
            classes,
            ClassRequest.of(args),
            held_out=held_out,
            test=test,
            earlier=earlier,
            seed=seed,
        )
    return replace(splits, earlier={**evaluated_again, **splits.earlier}), classes


def _load_parts(
    args: SpeechClassArguments, needs_speakers: bool
) -> tuple[list[Dataset | None], list[str]]:
    """The training, test and other rows, and all classes."""
    train = load_utterances(args, args.train_split, needs_speakers=needs_speakers)
    classes = classes_of(train)
    test, other = (
        load_utterances(args, split, needs_speakers=needs_speakers) if split else None
        for split in (args.test_split, args.other_split)
    )
    for option, rows in (("test_split", test), ("other_split", other)):
        unseen = sorted(groups_of(rows, "class"))
        check_owners(RECORDINGS, unseen, classes, f"the training split (classes of {option})")
    return [train, test, other], classes


def _speakers_to_forget(args: SpeechClassArguments, train: Dataset, seed: int) -> list[str]:
    speakers = args.forget_speakers
    if args.forget_share:
        speakers = draw_speakers(train, args.forget_share, args.forget_share_min, seed)
    if args.forgets_speakers:
        check_speakers(speakers, train["speaker"][:], "the training split")
    return speakers


def _check_request(args: SpeechClassArguments) -> None:
    options = {
        "forget_speakers": args.forget_speakers,
        "forget_share": args.forget_share,
        "forget_classes": args.forget_classes,
        "forget_samples": args.forget_samples,
        "forget_ids": args.forget_ids,
    }
    ways = [name for name, value in options.items() if value]
    if not ways:
        raise ValueError(
            "nothing to forget: name forget_speakers or forget_classes, or give forget_share, "
            "forget_samples or forget_ids"
        )
    if args.forgets_speakers and len(ways) > 1:
        raise ValueError(
            f"{ways[0]} already says what is forgotten: leave out {', '.join(ways[1:])}"
        )
    if args.identifies_speakers and args.forget_classes:
        raise ValueError("the classes are the speakers: name them in forget_speakers")
    if args.other_split and not args.forgets_speakers:
        raise ValueError(
            "other_split is for speakers that the model never met: leave it out where classes or "
            "single utterances are forgotten"
        )


def _warn_of_uneven_classes(splits: SpeakerSplits) -> None:
    """Warns of classes that the forgotten speakers never said in training, and of those that only
    they did."""
    forgotten = groups_of(splits.forget, "class")
    retained = groups_of(splits.retain_pool, "class")
    if unsaid := sorted(retained - forgotten):
        logger.warning(
            "The forgotten speakers have no training utterance in some classes "
            f"({len(unsaid)}), so nothing is forgotten there: {first_few(unsaid)}"
        )
    if alone := sorted(forgotten - retained):
        logger.warning(
            f"Some classes ({len(alone)}) have training utterances of the forgotten speakers "
            f"alone, so a model without them cannot know them: {first_few(alone)}"
        )


def prepare_class_splits(
    splits: SpeakerSplits | UtteranceSplits,
    processor: ProcessorMixin | SequenceFeatureExtractor,
    args: SpeechClassArguments,
    classes: list[str],
    *,
    longest: float | None = None,
    shortest: float | None = None,
    retain_pool: bool = True,
) -> SpeakerSplits | UtteranceSplits:
    """The same splits with inputs, and with the index of each class in `classes` as its label.
    Those that are only evaluated are bounded to `args.max_eval_samples` first.

    Args:
        longest, shortest: as for `prepare`.
        retain_pool: False leaves retain_pool as it is, which only training needs.

    Raises:
        ValueError: as `prepare` does.
    """
    index_of = {name: index for index, name in enumerate(classes)}

    def features(name: str, rows: Dataset) -> Dataset:
        return prepare(
            rows,
            processor,
            labels=[index_of[label] for label in rows["class"][:]],
            longest=longest,
            shortest=shortest,
            cut=args.max_seconds,
            skip_bad_audio=args.skip_bad_audio,
            num_proc=args.num_proc,
            description=f"features of {name}",
        )

    return prepare_parts(splits, features, args.max_eval_samples, retain_pool)
