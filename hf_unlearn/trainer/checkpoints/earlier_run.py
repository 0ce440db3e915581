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
    SKETCH,
)

logger = logging.get_logger(__name__)

# The weight files that from_pretrained looks for, including shards and their index.
FULL_WEIGHTS = (
    "model*.safetensors",
    "model*.safetensors.index.json",
    "pytorch_model*.bin",
    "pytorch_model*.bin.index.json",
)
ADAPTER_WEIGHTS = ("adapter_model*.safetensors", "adapter_model*.bin")
ADAPTER_CONFIG = "adapter_config.json"
MODEL_CONFIGS = ("config.json", "generation_config.json")
# Files that describe one run.
RUN_FILES = (
    *(RESULTS, EVALUATION, AUDIT, LEDGER, EVALUATION_RESULTS, REPORT, PLOT, MISREAD, BEST),
    SKETCH,
)
EARLIER_CARD = "README.earlier.md"


def weights_in(
    folder: Path, patterns: tuple[str, ...] = (*FULL_WEIGHTS, *ADAPTER_WEIGHTS)
) -> list[Path]:
    """The weight files in a folder, sorted."""
    return sorted(path for pattern in patterns for path in folder.glob(pattern))


def remove_other_weights(folder: Path, saved: set[str]) -> None:
    """Removes the weights of an earlier save, which from_pretrained would load instead of the new
    ones, or together with them. Without new weights, nothing is removed.

    Args:
        saved: the names of the files just saved.
    """
    if not any((folder / name) in weights_in(folder) for name in saved):
        return
    others = [path for path in weights_in(folder) if path.name not in saved]
    if ADAPTER_CONFIG not in saved:
        others.append(folder / ADAPTER_CONFIG)
    elif any(path in weights_in(folder, FULL_WEIGHTS) for path in others):
        # With a config.json, peft would look for the base model in this folder.
        others += [folder / name for name in MODEL_CONFIGS]
    others = [path for path in others if path.name not in saved and path.is_file()]
    for path in others:
        path.unlink()
    if others:
        logger.warning(f"Removed from {folder} the files of an earlier model: {_names(others)}.")


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
            logger.warning(
                f"Removed from {self.folder} the files that describe an earlier model: "
                f"{_names(others)}."
            )


def _modified(path: Path) -> int:
    return path.stat().st_mtime_ns


def _names(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths)
