"""Leaves out utterances that a model cannot take, with a warning, or refuses them by name."""

from datasets import Dataset
from transformers.utils import logging

from ..names import first_few
from .row_cache import AUDIO_REMEDY

logger = logging.get_logger(__name__)

BAD_AUDIO = "broken, empty, silent, too short or too long audio"
BAD_LABELS = "transcripts that the model cannot learn"


def long_enough(rows: Dataset, shortest: float, skip: bool, description: str) -> Dataset:
    """The rows whose audio is long enough for the model.

    Raises:
        ValueError: a row is not, and may not be skipped; or no row is left.
    """
    complaints = {
        row: f"is {duration:.4f} s long, under the {shortest:.4f} s that the model needs for its "
        f"first frame; {AUDIO_REMEDY}"
        for row, duration in enumerate(rows["duration"][:])
        # Durations are rounded to float32.
        if duration < shortest * (1 - 1e-6)
    }
    kept = good_rows(rows, complaints, skip, description, BAD_AUDIO)
    return rows.select(kept) if complaints else rows


def good_rows(
    dataset: Dataset,
    complaints: dict[int, str],
    skip: bool,
    description: str,
    what: str = BAD_LABELS,
) -> list[int]:
    """The numbers of the rows without a complaint. The others are skipped with one warning.

    Args:
        complaints: by the rows' numbers.
        what: what such rows have.

    Raises:
        ValueError: a row may not be skipped, or none is left.
    """
    names = dataset["id"][:]
    if complaints and not skip:
        row, complaint = next(iter(complaints.items()))
        others = f" ({len(complaints)} utterances are like this)" if len(complaints) > 1 else ""
        raise ValueError(f"utterance {names[row]} {complaint}{others}")
    report_skipped(dataset, [names[row] for row in complaints], what, description)
    return [row for row in range(len(names)) if row not in complaints]


def report_skipped(dataset: Dataset, skipped: list[str], what: str, description: str) -> None:
    """Warns of rows that are left out.

    Raises:
        ValueError: no row is left.
    """
    if not skipped:
        return
    if len(skipped) == len(dataset):
        raise ValueError(
            f"{description}: all {len(dataset)} utterances have {what}, so none is left: give "
            "others"
        )
    logger.warning(
        "%s: skipped %d of %d utterances with %s: %s",
        description,
        len(skipped),
        len(dataset),
        what,
        first_few(skipped),
    )
