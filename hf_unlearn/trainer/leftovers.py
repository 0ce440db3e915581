"""What an earlier run has left in an output folder, and what would be taken for the model, or the
results, of a new one."""

from pathlib import Path

from transformers.utils import logging

logger = logging.get_logger(__name__)

# The files of a model's weights, as from_pretrained looks for them, in pieces and with their index
# too.
FULL_WEIGHTS = ("model*.safetensors", "model*.safetensors.index.json", "pytorch_model*.bin", "pytorch_model*.bin.index.json")  # fmt: skip
ADAPTER_WEIGHTS = ("adapter_model*.safetensors", "adapter_model*.bin")
ADAPTER_CONFIG, CONFIGS = "adapter_config.json", ("config.json", "generation_config.json")
# What tells of a model's run; the last is what the stopping rules keep.
TELLING = ("results.json", "evaluation.json", ".eval_results/unlearning.yaml", "report.html", "forgetting.png",
           "misread.png", "best_checked.safetensors")  # fmt: skip
CARD, EARLIER_CARD = "README.md", "README.earlier.md"


def weights_in(folder: Path, patterns=(*FULL_WEIGHTS, *ADAPTER_WEIGHTS)) -> list[Path]:
    return sorted(path for pattern in patterns for path in folder.glob(pattern))


def remove_other_weights(folder: Path, saved: set[str]) -> None:
    """Removes the weights of an earlier save, which from_pretrained would load in place of those
    just saved, or with them.

    Args:
        saved: the names of the files just saved. A folder without new weights is left as it is.
    """
    adapter = ADAPTER_CONFIG in saved
    if not any((folder / name) in weights_in(folder) for name in saved):
        return
    others = [path for path in weights_in(folder) if path.name not in saved]
    if adapter and any(path in weights_in(folder, FULL_WEIGHTS) for path in others):
        others += [
            folder / name for name in CONFIGS
        ]  # beside a config.json an adapter's base is looked for in the folder
    if not adapter:
        others.append(folder / ADAPTER_CONFIG)
    others = [path for path in others if path.name not in saved and path.is_file()]
    for path in others:
        path.unlink()
    if others:
        logger.warning(f"Removed from {folder}, of a model saved there before: {_names(others)}.")


class EarlierRun:
    """What an output folder tells of an earlier run when a new one begins."""

    def __init__(self, folder: Path, keep: tuple[str, ...] = ()):
        paths = [folder / name for name in (*TELLING, CARD) if name not in keep]
        self.folder, self.found = folder, {path: _written(path) for path in paths if path.is_file()}

    def remove(self) -> None:
        """Removes it, as far as it is not written anew; called when the new run's model or card is
        saved. A card, which somebody may have edited, gets another name."""
        old = [
            path
            for path, written in self.found.items()
            if path.is_file() and _written(path) == written
        ]
        self.found = {}
        cards = [path for path in old if path.name == CARD]
        for path in cards:
            # else it is none of ours
            if "hf_unlearn" in path.read_text(encoding="utf-8", errors="replace"):
                path.rename(self.folder / EARLIER_CARD)
                logger.warning(
                    f"The card of an earlier model in {self.folder} is now {EARLIER_CARD}."
                )
        if others := [path for path in old if path not in cards]:
            for path in others:
                path.unlink()
            logger.warning(
                f"Removed from {self.folder}, since it tells of an earlier model: {_names(others)}."
            )


def _written(path: Path) -> int:
    return path.stat().st_mtime_ns


def _names(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths)
