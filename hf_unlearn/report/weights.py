"""Digests of weights: of those in a model's folder, whatever files they are split over, and of
those in memory."""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ..files import model_folder

ADAPTER = "adapter_config.json"
# The files that from_pretrained looks for, the first kind that there is.
OF_MODEL = ("model*.safetensors", "pytorch_model*.bin")
OF_ADAPTER = ("adapter_model*.safetensors", "adapter_model*.bin")


def weights_digest(name: str | Path) -> str | None:
    """SHA-256 over the names and values of a saved model's tensors, sorted by name. For an adapter,
    its base model counts, too.

    Args:
        name: a folder, or the id of a model on the Hub that has been downloaded.

    Returns:
        None where there are no weights.
    """
    folder = model_folder(name)
    if folder is None:
        return None
    files = _weight_files(folder)
    if not files:
        return None
    with _opened(files) as tensors:
        digest = tensors_digest(tensors)
    if not is_adapter(folder):
        return digest
    base = json.loads((folder / ADAPTER).read_text()).get("base_model_name_or_path")
    below = weights_digest(base) if base else None
    return hashlib.sha256(f"{digest} on {below}".encode()).hexdigest()


def is_adapter(folder: Path) -> bool:
    """Whether a folder has only an adapter, and not its base model."""
    return (folder / ADAPTER).is_file() and not (folder / "config.json").is_file()


def changed_weights(before: Path, after: Path) -> tuple[dict[str, float], int]:
    """Which saved tensors differ between two folders.

    Returns:
        {name: length of the change divided by the length before}, infinite where only one folder
        has the tensor or the shapes differ; and the number of tensors.
    """
    with _opened(_weight_files(before)) as old, _opened(_weight_files(after)) as new:
        unmatched, changed = dict(old), {}
        names = set(unmatched)
        for name, tensor in new:
            names.add(name)
            share = _change(unmatched.pop(name, None), tensor)
            changed |= {name: share} if share else {}
    return changed | dict.fromkeys(unmatched, float("inf")), len(names)


def _change(before: Tensor | None, after: Tensor) -> float:
    if before is None or before.shape != after.shape:
        return float("inf")
    if torch.equal(before, after):
        return 0.0
    difference, length = (after.double() - before.double()).norm(), before.double().norm()
    return float(difference / length) if length else float("inf")


def _weight_files(folder: Path) -> list[Path]:
    patterns = OF_ADAPTER if is_adapter(folder) else OF_MODEL
    return next((paths for kind in patterns if (paths := sorted(folder.glob(kind)))), [])


def model_digest(model: nn.Module) -> str:
    """SHA-256 over the names and values of a model's weights and buffers, sorted by name."""
    return tensors_digest(sorted(model.state_dict().items()))


def tensors_digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 over the names, types, shapes and values of tensors, in the order given."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        # viewed as bytes: NumPy has no bfloat16
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


@contextlib.contextmanager
def _opened(files: list[Path]) -> Iterator[Iterator[tuple[str, Tensor]]]:
    """The tensors of some files, sorted by name, each read when its turn comes."""
    with contextlib.ExitStack() as stack:
        readers = {}
        for file in files:
            if file.suffix == ".safetensors":
                opened = stack.enter_context(safe_open(file, framework="pt"))
                readers |= {name: opened.get_tensor for name in opened.keys()}
            else:
                tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
                readers |= {name: tensors.__getitem__ for name in tensors}
        yield ((name, readers[name](name)) for name in sorted(readers))
