"""What is written when a run has ended: none of it may cost the run, whose model and numbers are
there already."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from transformers.utils import logging

logger = logging.get_logger(__name__)


@contextlib.contextmanager
def not_costing_the_run(what: str, folder: str | Path) -> Iterator[None]:
    """Makes a warning of an error in writing `what` into a run's output folder."""
    try:
        yield
    except (
        Exception
    ) as error:  # of drawing, of templates, of a full disk, of what users have put into a card
        reason = " ".join(str(error).split()) or "no message"
        logger.warning(
            f"{what} could not be written to {folder} ({type(error).__name__}: {reason}). An older "
            "one there is of an "
            "earlier run. The model and results.json are complete; `hf-unlearn card` writes the "
            "card from them."
        )
