"""The weight files in a folder, of which a save must leave only its own."""

from pathlib import Path

from transformers.utils import ADAPTER_CONFIG_NAME, logging

logger = logging.get_logger(__name__)

# The weight files that from_pretrained looks for, including shards and their index.
FULL_WEIGHTS = (
    "model*.safetensors",
    "model*.safetensors.index.json",
    "pytorch_model*.bin",
    "pytorch_model*.bin.index.json",
)
ADAPTER_WEIGHTS = ("adapter_model*.safetensors", "adapter_model*.bin")
MODEL_CONFIGS = ("config.json", "generation_config.json")


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
    if ADAPTER_CONFIG_NAME not in saved:
        others.append(folder / ADAPTER_CONFIG_NAME)
    elif any(path in weights_in(folder, FULL_WEIGHTS) for path in others):
        # With a config.json, peft would look for the base model in this folder.
        others += [folder / name for name in MODEL_CONFIGS]
    others = [path for path in others if path.name not in saved and path.is_file()]
    for path in others:
        path.unlink()
    if others:
        names = ", ".join(path.name for path in others)
        logger.warning(f"Removed from {folder} the files of an earlier model: {names}.")
