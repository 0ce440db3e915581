"""Files of an earlier run in the output folder, which must not be mistaken for the new run's."""

from pathlib import Path

from transformers.utils import logging

from ...report.file_names import (
    AUDIT,
    BEST,
    CARD,
    EVALUATION,
    EVALUATION_RESULTS,
    LEDGER,
    MISREAD,
    PLOT,
    REPORT,
    RESULTS,
    UPDATES,
)

logger = logging.get_logger(__name__)

# Files that describe one run.
RUN_FILES = (
    *(RESULTS, EVALUATION, AUDIT, LEDGER, EVALUATION_RESULTS, REPORT, PLOT, MISREAD, BEST),
    UPDATES,
)
EARLIER_CARD = "README.earlier.md"


class EarlierRun:
    """The files that describe an earlier run, as found in the output folder when a new run starts.

    Args:
        keep: names of files to leave alone.
    """

    def __init__(self, folder: Path, keep: tuple[str, ...] = ()):
        paths = [folder / name for name in (*RUN_FILES, CARD) if name not in keep]
        self.folder = folder
        self.found = {path: _modified(path) for path in paths if path.is_file()}

    def remove(self) -> None:
        """Removes those files that the new run has not rewritten. Called when the new run's model
        or card is saved. The card is renamed, because somebody may have edited it."""
        old = [
            path
            for path, modified in self.found.items()
            if path.is_file() and _modified(path) == modified
        ]
        self.found = {}
        cards = [path for path in old if path.name == CARD]
        for path in cards:
            # a card that this package did not write is left alone
            if "hf_unlearn" in path.read_text(encoding="utf-8", errors="replace"):
                path.rename(self.folder / EARLIER_CARD)
                logger.warning(
                    f"Renamed the card of an earlier model in {self.folder} to {EARLIER_CARD}."
                )
        if others := [path for path in old if path not in cards]:
            for path in others:
                path.unlink()
            names = ", ".join(path.name for path in others)
            logger.warning(
                f"Removed from {self.folder} the files that describe an earlier model: {names}."
            )


def _modified(path: Path) -> int:
    return path.stat().st_mtime_ns
