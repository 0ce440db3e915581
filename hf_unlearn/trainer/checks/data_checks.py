"""Refuses datasets that do not fit the method: missing, empty, too small or of the wrong kind."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

from ...config import UnlearnConfig
from ...methods import Method
from ..batches.retain_batches import check_retain_size
from ..batches.training_data import length_or_none

NO_FORGET = (
    "forget_dataset is missing: give the samples to forget (train_dataset is another name for it)"
)


def check_data(
    method: Method, forget_dataset: Any, retain_dataset: Any, args: UnlearnConfig
) -> None:
    """Checks that the datasets fit the method. A trainer without a forget set only evaluates.

    Raises:
        ValueError: a dataset is missing, empty, too small, not a dataset, or a stream where none
            is allowed.
    """
    for name, dataset in (("forget_dataset", forget_dataset), ("retain_dataset", retain_dataset)):
        check_kind(name, dataset)
    if forget_dataset is None:
        if args.do_train:
            raise ValueError(NO_FORGET)
        return
    size = length_or_none(forget_dataset)
    if size == 0:
        raise ValueError("forget_dataset is empty: give at least one sample to forget")
    prepares = method.prepares or ()
    if "forget" in prepares and size is None:
        raise ValueError(
            f"forget_dataset is a stream, but method={args.method!r} reads all of it before the "
            "first step: load the samples into a list or a Dataset"
        )
    if method.uses_retain or "retain" in prepares:
        _check_retain(retain_dataset, args)


def check_kind(name: str, dataset: Any) -> None:
    """Refuses what is not one dataset: a name, a dict of splits, or something that can be read
    only once."""
    if isinstance(dataset, str | os.PathLike):
        raise ValueError(
            f"{name} is {str(dataset)!r}, which is not a dataset: load it first, for example with "
            "datasets.load_dataset"
        )
    if isinstance(dataset, Mapping):
        raise ValueError(
            f"{name} has the keys {', '.join(map(str, dataset))}, but must be one dataset: give "
            "one of its splits"
        )
    if isinstance(dataset, Iterator):
        raise ValueError(
            f"{name} is a {type(dataset).__name__}, which can be read only once: give a list or a "
            "dataset"
        )


def _check_retain(retain_dataset: Any, args: UnlearnConfig) -> None:
    if retain_dataset is None:
        raise ValueError(
            "retain_dataset is missing: this method needs samples to keep, even if only a few dozen"
        )
    size = length_or_none(retain_dataset)
    if size is None:
        raise ValueError(
            "retain_dataset is a stream, but the retain batch of a step must not depend on what "
            "was read before: load the samples into a list or a Dataset"
        )
    if size == 0:
        raise ValueError(
            "retain_dataset is empty: give at least one sample to keep, or use "
            "method='gradient_ascent'"
        )
    check_retain_size(size, args.world_size)
