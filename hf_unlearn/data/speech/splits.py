"""Splits by speaker: what is forgotten, what is retained, and what shows whether both worked."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

from datasets import Dataset, concatenate_datasets
from transformers import ProcessorMixin, SequenceFeatureExtractor

from ..earlier import EarlierRequest, Roles, set_apart
from ..names import check_spellings
from ..sampling import (
    balanced,
    groups_of,
    hold_out,
    sample_count,
    sample_remaining,
    select_groups,
    sorted_by_id,
)
from ..splits import Splits, check_apart, check_files_apart
from .samples import prepare
from .sources import SPEECH, check_speakers, load_speech
from .speech_arguments import SpeechArguments

Parts = TypeVar("Parts", bound=Splits)


@dataclass(frozen=True, kw_only=True)
class SpeakerSplits(Splits):
    """Utterances by their part in unlearning. No utterance is in two of forget, forget_test,
    retain_pool, test and other.

    Attributes:
        forget: training utterances of the forgotten speakers.
        forget_test: unseen utterances of the forgotten speakers.
        retain: the retain set: a part of retain_pool, balanced over speakers.
        retain_pool: all training utterances of the retained speakers.
        retain_rest: utterances of retain_pool outside of retain, only to be evaluated.
        test: unseen utterances of the retained speakers.
        other: utterances of speakers never trained on.
    """

    kind = SPEECH
    evaluated = ("forget", "forget_test", "retain", "retain_rest", "test", "other")

    other: Dataset | None


def split_by_speaker(
    train: Dataset,
    *,
    forget_speakers: Iterable[str],
    retain_speakers: Iterable[str] | None = None,
    retain_size: float,
    retain_rest: int = 0,
    held_out: float = 0.1,
    test: Dataset | None = None,
    other: Dataset | None = None,
    earlier: Collection[EarlierRequest] = (),
    earlier_rows: Dataset | None = None,
    seed: int = 0,
) -> SpeakerSplits:
    """Splits rows of `load_speech`. The result depends on the rows and the seed, not on the order
    of the rows.

    Args:
        train: what the original model was trained on, apart from what is held out here.
        retain_speakers: None or empty: all speakers of `train` that are not forgotten.
        retain_size: size of the retain set in utterances; below 1, as a share of retain_pool.
        retain_rest: how many utterances of retain_pool outside of the retain set are evaluated.
        held_out: share of each speaker's utterances, in [0, 1), that are taken out of `train` and
            count as unseen: at least one if it is not 0, but never all. A speaker with utterances
            in `test` keeps all of those in `train`.
        test: unseen utterances. Those of speakers that are not in `train` go to other.
        other: utterances of speakers never trained on; those of other speakers are left out.
        earlier: earlier requests; their speakers are left out with a warning, and evaluated again.
        earlier_rows: training rows of the speakers of these requests, where `train` lacks them.

    Raises:
        ValueError: no or unknown speakers to forget; one both forgotten and retained (perhaps by
            another spelling); one to be retained that an earlier request forgot; nobody retained;
            an utterance in both `train` and `test`; `held_out` or `retain_size` out of range.
    """
    forget_speakers, retain_speakers = _check_roles(forget_speakers, retain_speakers or ())
    _check_spellings(forget_speakers, train, test, other)
    roles = {"speaker": Roles(forget_speakers, retain_speakers)}
    parts, evaluated_again = set_apart(
        [train, test, other],
        earlier,
        roles,
        held_out=held_out,
        seed=seed,
        evaluated=earlier_rows,
    )
    train, test, other = parts
    check_speakers(forget_speakers | retain_speakers, train["speaker"][:], "the training split")
    retain_speakers = retain_speakers or groups_of(train, "speaker") - forget_speakers
    trained_speakers = forget_speakers | retain_speakers
    training, unseen = _training_and_unseen(train, test, trained_speakers, held_out, seed)
    pool = select_groups(training, "speaker", retain_speakers)
    retain = balanced(pool, "speaker", _retain_count(retain_size, pool), seed)
    forget = select_groups(training, "speaker", forget_speakers)
    check_files_apart(forget, retain, SPEECH)
    return SpeakerSplits(
        forget=forget,
        forget_test=select_groups(unseen, "speaker", forget_speakers),
        retain=retain,
        retain_rest=sample_remaining(pool, retain["id"][:], "speaker", retain_rest, seed),
        retain_pool=pool,
        test=select_groups(unseen, "speaker", retain_speakers),
        other=_never_trained_on(trained_speakers, test, other),
        seed=seed,
        earlier=evaluated_again,
    )


def _training_and_unseen(
    train: Dataset, test: Dataset | None, speakers: set[str], held_out: float, seed: int
) -> tuple[Dataset, Dataset]:
    """The utterances to train on, and the unseen ones of the same speakers: those of `test`, and a
    share of `train` of the speakers that are not in it."""
    without_test = speakers - groups_of(test, "speaker")
    training, unseen = hold_out(train, "speaker", without_test, held_out, seed)
    if test is None:
        return training, unseen
    check_apart(train, test, SPEECH)
    return training, concatenate_datasets([unseen, select_groups(test, "speaker", speakers)])


def _never_trained_on(
    trained_speakers: set[str], test: Dataset | None, other: Dataset | None
) -> Dataset | None:
    """Utterances of the test and the other split by speakers that were not trained on; None if
    there are none.

    Raises:
        ValueError: there is an other split, but all of its speakers were trained on.
    """
    strangers = groups_of(other, "speaker") - trained_speakers
    if other is not None and not strangers:
        raise ValueError(
            "every speaker of the other split is one that the model was trained on: name another "
            "other_split"
        )
    parts = [] if other is None else [select_groups(other, "speaker", strangers)]
    if strangers_in_test := groups_of(test, "speaker") - trained_speakers:
        parts.append(select_groups(test, "speaker", strangers_in_test))
    return sorted_by_id(concatenate_datasets(parts)) if parts else None


def load_splits(
    args: SpeechArguments,
    seed: int,
    earlier: Collection[EarlierRequest] = (),
) -> SpeakerSplits:
    """Loads the splits that `args` describe; the audio is not decoded yet.

    Args:
        earlier: as for `split_by_speaker`. The speakers of earlier requests are not read
            from a stream in which retain_speakers bounds what is read.

    Raises:
        ValueError: as `load_speech` and `split_by_speaker` do.
    """
    forget, retain = _check_roles(args.forget_speakers, args.retain_speakers)

    def load(split: str, speakers: set[str] | None = None) -> Dataset:
        return load_speech(
            args.dataset,
            split=split,
            config=args.dataset_config,
            audio_column=args.audio_column,
            text_column=args.text_column,
            speaker_column=args.speaker_column,
            id_column=args.id_column,
            revision=args.dataset_revision,
            streaming=args.streaming,
            speakers=speakers,
            text_optional=args.transcripts == "own",
            max_utterances_per_speaker=args.max_utterances_per_speaker,
        )

    in_ledger = any(request.number is not None for request in earlier)
    bounded = in_ledger and retain and not args.streaming
    return split_by_speaker(
        load(args.train_split, forget | retain if retain else None),
        earlier_rows=load(args.train_split) if bounded else None,
        forget_speakers=forget,
        retain_speakers=retain,
        retain_size=args.retain_size,
        retain_rest=args.retain_rest,
        held_out=args.held_out,
        test=load(args.test_split) if args.test_split else None,
        other=load(args.other_split) if args.other_split else None,
        earlier=earlier,
        seed=seed,
    )


def prepare_splits(
    splits: SpeakerSplits,
    processor: ProcessorMixin | SequenceFeatureExtractor,
    args: SpeechArguments,
    *,
    max_label_length: int | None = None,
    retain_pool: bool = True,
    label_texts: Callable[[Dataset], list[str]] | None = None,
    end_token: int | None = None,
    longest: float | None = None,
    shortest: float | None = None,
    frames_of: Callable[[int], int] | None = None,
    prompted: bool = True,
) -> SpeakerSplits:
    """The same splits with inputs and labels. Those that are only evaluated are bounded to
    `args.max_eval_samples` first.

    Args:
        retain_pool: False leaves retain_pool as it is. Unlearning needs only retain.
        label_texts: gives the texts of the labels for some rows, if they differ from the rows' own.
        max_label_length, end_token, longest, shortest, frames_of: as for `prepare`.
        prompted: whether the labels begin with the tokens of `args.language` and `args.task`, which
            only Whisper has.

    Raises:
        ValueError: as `prepare` does.
    """

    def features(name: str, rows: Dataset) -> Dataset:
        return prepare(
            rows,
            processor,
            max_label_length=max_label_length,
            language=args.language if prompted else None,
            task=args.task if prompted else None,
            skip_bad_audio=args.skip_bad_audio,
            skip_bad_labels=args.skip_bad_labels,
            num_proc=args.num_proc,
            description=f"features of {name}",
            label_texts=label_texts and label_texts(rows),
            end_token=end_token,
            longest=longest,
            shortest=shortest,
            frames_of=frames_of,
            store="float16" if args.store_features else None,
        )

    return prepare_parts(splits, features, args.max_eval_samples, retain_pool)


def prepare_parts(
    splits: Parts,
    features: Callable[[str, Dataset], Dataset],
    max_eval_samples: int | None,
    retain_pool: bool,
) -> Parts:
    """The same splits of utterances, with what `features` makes of each part.

    Args:
        features: gives a part with inputs and labels, from its name and its rows.
        max_eval_samples: bounds the parts that are only evaluated.
        retain_pool: False leaves retain_pool as it is.
    """

    def prepared(name: str, rows: Dataset | None) -> Dataset | None:
        return features(name, rows) if rows is not None and len(rows) else rows

    parts = {"forget": prepared("forget", splits.forget)}
    if retain_pool:
        parts["retain_pool"] = prepared("retain_pool", splits.retain_pool)
    for name in ("retain", "retain_rest"):
        rows = getattr(splits, name)
        if retain_pool and rows is not None:
            parts[name] = select_groups(parts["retain_pool"], "id", rows["id"][:])
        else:
            parts[name] = prepared(name, rows)
    for name in ("forget_test", "test", "other"):
        parts[name] = prepared(name, splits.bounded(name, max_eval_samples))
    parts["earlier"] = {
        name: prepared(name, splits.bounded(name, max_eval_samples)) for name in splits.earlier
    }
    return replace(splits, **parts)


def _check_spellings(forget_speakers: set[str], *parts: Dataset | None) -> None:
    speakers = set().union(*(groups_of(rows, "speaker") for rows in parts))
    check_spellings(forget_speakers, speakers, "speaker", "forget_speakers")


def _check_roles(
    forget_speakers: Iterable[str], retain_speakers: Iterable[str]
) -> tuple[set[str], set[str]]:
    forget = {str(speaker) for speaker in forget_speakers}
    retain = {str(speaker) for speaker in retain_speakers}
    if not forget:
        raise ValueError("no speaker to forget: name one or more in forget_speakers")
    if forget & retain:
        raise ValueError(
            f"speaker {', '.join(sorted(forget & retain))} is in both forget_speakers and "
            "retain_speakers"
        )
    return forget, retain


def _retain_count(retain_size: float, pool: Dataset) -> int:
    if not len(pool):
        raise ValueError(
            "the retain set is empty: no training utterance is left of a speaker who is not "
            "forgotten"
        )
    return sample_count(retain_size, len(pool), "retain_size", "utterances")
