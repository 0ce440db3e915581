"""Refuses what cannot keep earlier requests forgotten."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...config import UnlearnConfig
from ...methods import Method, names_with
from ...per_sample.shards import sharded_modules
from ..batches.retain_batches import check_retain_size
from ..batches.training_data import length_or_none
from ..protocol import RunView
from .data_checks import check_kind

NAME = "previous_forget_dataset"


def check_earlier_requests(
    method: Method, dataset: Any, updates: Sequence[str | Path] | None, args: UnlearnConfig
) -> None:
    """Checks what a trainer was given of earlier requests.

    Raises:
        ValueError: the method cannot keep them forgotten, or the samples are not a usable dataset.
    """
    arguments = [name for name, is_given in _given(dataset, updates).items() if is_given]
    if arguments and not method.keeps_forgotten:
        raise ValueError(
            f"{arguments[0]} does not work with method={args.method!r}, which has no per-sample "
            f"projection: use {' or '.join(names_with('keeps_forgotten'))}, or leave it out"
        )
    if dataset is None:
        return
    check_kind(NAME, dataset)
    size = length_or_none(dataset)
    if not size:
        what = "is a stream" if size is None else "is empty"
        raise ValueError(f"{NAME} {what}: give a list or a Dataset of the samples, or leave it out")
    check_retain_size(size, args.world_size, NAME)


def _given(dataset: Any, updates: Sequence[str | Path] | None) -> dict[str, bool]:
    return {NAME: dataset is not None, "previous_updates": bool(updates)}


def check_updates(trainer: RunView) -> None:
    """Checks that updates can be stored and read in this run.

    Raises:
        ValueError: they cannot.
    """
    args, updates = trainer.args, trainer.previous_updates
    if updates is None and not args.save_update_sketch:
        return
    name = "save_update_sketch" if updates is None else "previous_updates"
    if args.world_size > 1 or trainer.is_fsdp_enabled or sharded_modules(trainer.model):
        raise ValueError(
            f"{name} works in a single process with whole weights only: start one process without "
            f"FSDP, or give the samples ({NAME})"
        )
    if trainer.model_init is not None:
        raise ValueError(f"{name} compares weights, and model_init makes new ones: give model")
    if updates is not None:
        updates.check(trainer.model)
