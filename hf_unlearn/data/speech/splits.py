"""Splits by speaker: what is forgotten, what is retained, and what tells whether both worked."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from datasets import Dataset, concatenate_datasets
from transformers.utils import logging

from ..sampling import (
    balanced,
    by_id,
    check_apart,
    check_spellings,
    count_of,
    hold_out,
    of_groups,
    rest_of,
    same_files,
    without_earlier,
)
from .samples import SpeechArguments, prepare
from .sources import check_speakers, load_speech

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class SpeakerSplits:
    """Utterances by their part in unlearning; none is in two of forget, forget_test, retain_pool,
    test and other."""

    forget: Dataset  # training utterances of the forgotten speakers
    forget_test: Dataset  # their unseen utterances
    retain: Dataset  # the retain set: a part of retain_pool balanced over speakers
    retain_pool: Dataset  # all training utterances of the retained speakers
    test: Dataset  # unseen utterances of the retained speakers
    other: Dataset | None  # speakers never trained on
    seed: int
    # of retain_pool, some that are not in retain: to be evaluated
    retain_rest: Dataset | None = None

    def describe(self) -> dict:
        """What results.json keeps: seed, numbers of utterances, speakers, ids of the forget and the
        retain set."""
        parts = {name: part for name, part in vars(self).items() if isinstance(part, Dataset)}
        return {
            "seed": self.seed,
            "utterances": {name: len(part) for name, part in parts.items()},
            "speakers": {name: sorted(set(part["speaker"][:])) for name, part in parts.items()},
            "forget_ids": self.forget["id"][:],
            "retain_ids": self.retain["id"][:],
        }

    def evaluation(self, max_samples: int | None = None) -> dict[str, Dataset]:
        """The splits to report, in this order, without empty ones: forget, forget_test, retain,
        retain_rest, test, other.

        Each is bounded to `max_samples` by a choice that is balanced over speakers and depends on
        the seed only.
        """
        parts = [
            ("forget", self.forget),
            ("forget_test", self.forget_test),
            ("retain", self.retain),
        ]
        parts += [("retain_rest", self.retain_rest), ("test", self.test), ("other", self.other)]
        return {
            name: balanced(part, "speaker", max_samples, self.seed)
            for name, part in parts
            if part is not None and len(part)
        }


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
    forgotten_before: Iterable[str] = (),
    seed: int = 0,
) -> SpeakerSplits:
    """Splits rows of `load_speech`; the result depends on the rows and the seed, not on the order
    of the rows.

    Args:
        train: what the original model was trained on, apart from what is held out here.
        retain_speakers: None, or none named: all speakers of `train` that are not forgotten.
        retain_size: size of the retain set in utterances; below 1, as a share of retain_pool.
        retain_rest: how many utterances of retain_pool outside of the retain set are to be
            evaluated.
        held_out: share of each speaker's utterances, in [0, 1), taken out of `train` to be unseen:
            at least one where it is not 0, and never all. A speaker with utterances in `test` keeps
            all of those in `train`.
        test: unseen utterances. Those of speakers that are not in `train` go to other.
        other: its utterances of speakers that were trained on are left out.
        forgotten_before: speakers that the model has forgotten already. They are left out of all
            splits, with a warning.

    Raises:
        ValueError: no or unknown speakers to forget, one both forgotten and retained (by another
            spelling, too), one to be retained that was forgotten before, nobody retained, an
            utterance in both `train` and `test`, `held_out` or `retain_size` out of range.
    """
    forget_speakers, retain_speakers = _check_roles(forget_speakers, retain_speakers or ())
    known = _speakers(train) | _speakers(test) | _speakers(other)
    check_spellings(forget_speakers, known, "speaker", "forget_speakers")
    train, test, other = without_earlier(
        [train, test, other], "speaker", forgotten_before, forget_speakers, retain_speakers
    )
    check_speakers(forget_speakers | retain_speakers, train["speaker"][:], "the training split")
    retain_speakers = retain_speakers or set(train["speaker"][:]) - forget_speakers
    trained = forget_speakers | retain_speakers
    held = hold_out(train, "speaker", trained - _speakers(test), held_out, seed)
    held_rows = set(held)
    seen = train.select([row for row in range(len(train)) if row not in held_rows])
    unseen, others = (
        train.select(held),
        [] if other is None else [of_groups(other, "speaker", _speakers(other) - trained)],
    )
    if test is not None:
        check_apart(train, test, "utterances")
        unseen = concatenate_datasets([unseen, of_groups(test, "speaker", trained)])
        others.append(of_groups(test, "speaker", _speakers(test) - trained))
    if other is not None and not len(others[0]):
        raise ValueError(
            "every speaker of the other split is one that the model was trained on: name another "
            "other_split"
        )
    others = [rows for rows in others if len(rows)]
    pool = of_groups(seen, "speaker", retain_speakers)
    retain = balanced(pool, "speaker", _retain_count(retain_size, pool), seed)
    forget = of_groups(seen, "speaker", forget_speakers)
    if same := same_files(forget, retain, "audio"):
        logger.warning(
            f"{len(same)} utterances to forget have the very audio of one in the retain set, such "
            f"as {' and '.join(same[0])}: "
            "take one of each pair out of the data"
        )
    return SpeakerSplits(
        forget=forget,
        forget_test=of_groups(unseen, "speaker", forget_speakers),
        retain=retain,
        retain_rest=rest_of(pool, retain["id"][:], "speaker", retain_rest, seed),
        retain_pool=pool,
        test=of_groups(unseen, "speaker", retain_speakers),
        other=by_id(concatenate_datasets(others)) if others else None,
        seed=seed,
    )


def load_splits(
    args: SpeechArguments, seed: int, forgotten_before: Iterable[str] = ()
) -> SpeakerSplits:
    """The splits that `args` describe, not yet decoded. Takes `forgotten_before`, and raises, as
    `load_speech` and `split_by_speaker` do."""
    forget, retain = _check_roles(args.forget_speakers, args.retain_speakers)

    def load(split: str | None, speakers: set[str] | None = None) -> Dataset | None:
        return split and load_speech(
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

    return split_by_speaker(
        load(args.train_split, forget | retain if retain else None),
        forget_speakers=forget,
        retain_speakers=retain,
        retain_size=args.retain_size,
        retain_rest=args.retain_rest,
        held_out=args.held_out,
        test=load(args.test_split),
        other=load(args.other_split),
        forgotten_before=forgotten_before,
        seed=seed,
    )


def prepare_splits(
    splits: SpeakerSplits,
    processor,
    args: SpeechArguments,
    *,
    max_label_length: int,
    retain_pool: bool = True,
    label_texts: Callable[[Dataset], list[str]] | None = None,
) -> SpeakerSplits:
    """The same splits with features and labels; the ones only evaluated are first bounded to
    `args.max_eval_samples`.

    `retain_pool=False` leaves retain_pool as it is: unlearning needs no more than retain, and
    features of all training utterances take 1 MB each. `label_texts` says what the labels of some
    rows are, where they are not as the rows have it. Raises as `prepare` does.
    """

    def features(name: str, rows: Dataset | None) -> Dataset | None:
        if rows is None or not len(rows):
            return rows
        return prepare(
            rows,
            processor,
            max_label_length=max_label_length,
            language=args.language,
            task=args.task,
            skip_bad_audio=args.skip_bad_audio,
            num_proc=args.num_proc,
            description=f"features of {name}",
            label_texts=label_texts and label_texts(rows),
        )

    parts = {"forget": features("forget", splits.forget)}
    if retain_pool:
        pool = parts["retain_pool"] = features("retain_pool", splits.retain_pool)
        ids = pool["id"][:]
    for name in ("retain", "retain_rest"):
        rows = getattr(splits, name)
        if retain_pool and rows is not None:
            chosen = set(rows["id"][:])
            parts[name] = pool.select(
                [row for row, utterance in enumerate(ids) if utterance in chosen]
            )
        else:
            parts[name] = features(name, rows)
    for name in ("forget_test", "test", "other"):
        rows = getattr(splits, name)
        parts[name] = features(
            name, rows and balanced(rows, "speaker", args.max_eval_samples, splits.seed)
        )
    return replace(splits, **parts)


def _check_roles(
    forget_speakers: Iterable[str], retain_speakers: Iterable[str]
) -> tuple[set[str], set[str]]:
    forget, retain = (
        {str(speaker) for speaker in forget_speakers},
        {str(speaker) for speaker in retain_speakers},
    )
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
            "the retain set is empty: no training utterance is left of a speaker who "
            "is not forgotten"
        )
    return count_of(retain_size, len(pool), "retain_size", "utterances")


def _speakers(rows: Dataset | None) -> set[str]:
    return set() if rows is None else set(rows["speaker"][:])
