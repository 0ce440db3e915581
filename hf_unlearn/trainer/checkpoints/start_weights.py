"""The model as it was before training: written to the output folder and read when a run resumes."""

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ...files import written_whole
from .checkpoint_files import link_into_checkpoint

# Trainer does not upload files with this prefix; these weights still know what is to be forgotten.
START = "_start.safetensors"


def changing_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The tensors that training may change, by name: trainable parameters and buffers."""
    yield from ((name, p) for name, p in model.named_parameters() if p.requires_grad)
    yield from model.named_buffers()


def save_start(model: nn.Module, path: Path) -> None:
    """Saves the tensors that training changes before it does, so that a resumed run can prepare
    its method from them again."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in changing_tensors(model)}
    with written_whole(path) as partial:
        save_file(tensors, partial)


def load_start(model: nn.Module, path: Path) -> None:
    """Loads what `save_start` saved into the model.

    Raises:
        ValueError: there is no such file.
    """
    if not path.exists():
        raise ValueError(
            f"there is no {path}, but this method compares with the model as it was at the start. "
            "Either the checkpoint is from a run with another method, or it was downloaded from "
            "the Hub, where that model is never pushed because it knows what is to be forgotten. "
            "Resume with that run's method and from its own output_dir, or start again."
        )
    saved = load_file(path)
    with torch.no_grad():
        for name, tensor in changing_tensors(model):
            tensor.copy_(saved[name])


def keep_start(model: nn.Module, folder: Path, checkpoint: str | None) -> None:
    """Keeps the weights from before a run in its output folder, for `write_updates`.

    Args:
        checkpoint: what the run resumes from, which has a copy; None for a new run.

    Raises:
        ValueError: the checkpoint has none.
    """
    if checkpoint is None:
        save_start(model, folder / START)
    elif not (Path(checkpoint) / START).is_file():
        raise ValueError(
            f"{checkpoint} comes from a run without save_update_sketch, so the weights from before "
            "it are not known: resume without save_update_sketch, or start again"
        )
    else:
        link_into_checkpoint(Path(checkpoint) / START, folder / START)
