"""The forget and retain sets of a trainer: which of them a method uses, and some of their rows."""

from collections.abc import Callable
from typing import Any

import datasets
import torch

from ..config import UnlearnConfig
from ..methods import Method
from .protocol import TrainerView
from .seeded import FORGET, RETAIN, SeededDataset

STREAMS = (torch.utils.data.IterableDataset, datasets.IterableDataset)


def data_seed(args: UnlearnConfig) -> int:
    """The seed of the order of samples and of random augmentation."""
    return args.data_seed if args.data_seed is not None else args.seed


def dataset_of(trainer: TrainerView, split: str) -> Any:
    return trainer.train_dataset if split == "forget" else trainer.retain_dataset


def used_splits(method: Method) -> list[str]:
    """The splits that a method looks at, before or in its steps."""
    prepares = method.prepares or ()
    used = {
        "forget": method.uses_forget or "forget" in prepares,
        "retain": method.uses_retain or "retain" in prepares,
    }
    return [split for split, is_used in used.items() if is_used]


def some_rows(trainer: TrainerView, split: str, limit: int) -> tuple[list, Callable]:
    """At most `limit` samples, spread evenly over a split, and its collator; no samples of a
    stream."""
    dataset = dataset_of(trainer, split)
    if isinstance(dataset, STREAMS):
        return [], trainer.data_collator
    dataset, collator = trainer.collated(dataset, split)
    size = len(dataset)
    indices = sorted({n * (size - 1) // max(1, limit - 1) for n in range(limit)} if size else ())
    seed = FORGET if split == "forget" else RETAIN
    rows = SeededDataset(dataset, data_seed(trainer.args), seed)
    return [rows[index] for index in indices], collator
