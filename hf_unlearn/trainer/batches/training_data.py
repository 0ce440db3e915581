"""The forget and retain sets of a trainer: which of them a method uses, and some of their rows."""

from collections.abc import Callable
from typing import Any

import datasets
import numpy as np
import torch

from ...config import UnlearnConfig
from ..protocol import DataView
from .seeded import FORGET, RETAIN, SeededDataset

STREAMS = (torch.utils.data.IterableDataset, datasets.IterableDataset)


def length_or_none(dataset: Any) -> int | None:
    """The number of samples; None for a stream, and for no dataset at all."""
    if isinstance(dataset, STREAMS) or not hasattr(dataset, "__len__"):
        return None
    return len(dataset)


def spread(size: int, count: int) -> list[int]:
    """At most `count` indices, spread evenly over a dataset from its first to its last sample."""
    return np.linspace(0, size - 1, min(size, count)).round().astype(int).tolist()


def data_seed(args: UnlearnConfig) -> int:
    """The seed of the order of samples and of random augmentation."""
    return args.data_seed if args.data_seed is not None else args.seed


def dataset_of(trainer: DataView, split: str) -> Any:
    of_split = {"forget": trainer.train_dataset, "retain": trainer.retain_dataset}
    return of_split.get(split, trainer.previous_forget_dataset)


def used_splits(trainer: DataView) -> list[str]:
    """The splits that a trainer's method looks at, before or in its steps."""
    method = trainer.method
    prepares = method.prepares or ()
    used = {
        "forget": method.uses_forget or "forget" in prepares,
        "retain": method.uses_retain or "retain" in prepares,
        "earlier": trainer.previous_forget_dataset is not None,
    }
    return [split for split, is_used in used.items() if is_used]


def some_rows(trainer: DataView, split: str, limit: int) -> tuple[list, Callable]:
    """At most `limit` samples, spread evenly over a split, and its collator; no samples of a
    stream."""
    dataset = dataset_of(trainer, split)
    if length_or_none(dataset) is None:
        return [], trainer.data_collator
    dataset, collator = trainer.collated(dataset, split)
    seed = FORGET if split == "forget" else RETAIN
    rows = SeededDataset(dataset, data_seed(trainer.args), seed)
    return [rows[index] for index in spread(len(dataset), limit)], collator
