"""Writes files that a finished run can do without: an error becomes a warning."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from transformers.utils import logging

from ..files import one_line

logger = logging.get_logger(__name__)


@contextlib.contextmanager
def warn_if_not_written(what: str, folder: str | Path) -> Iterator[None]:
    """Turns an error while writing `what` to a run's output folder into a warning.

    By then the model and its results are saved. So no error may end the run, whether it comes from
    plotting, a template, a full disk, or what users put into a card.
    """
    try:
        yield
    except Exception as error:
        reason = one_line(error) or "no message"
        logger.warning(
            f"{what} could not be written to {folder} ({type(error).__name__}: {reason}). If it "
            "exists, it is from an earlier run. The model and results.json are "
            "complete; `hf-unlearn card` writes the card from them."
        )
