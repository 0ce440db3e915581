"""Removes columns that the model does not take from datasets whose rows are made on access
(`Dataset.with_transform`)."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import datasets


@dataclass(frozen=True)
class OnlyColumns:
    """A dataset's transform, reduced to some columns of its result."""

    transform: Callable[[dict], dict]
    kept: frozenset[str]

    def __call__(self, rows: dict) -> dict:
        return {name: column for name, column in self.transform(rows).items() if name in self.kept}


def made_on_access(dataset: Any) -> bool:
    """Whether a dataset has a transform that makes its rows."""
    return isinstance(dataset, datasets.Dataset) and dataset.format["type"] == "custom"


def only_columns(dataset: datasets.Dataset, kept: Iterable[str]) -> datasets.Dataset:
    """The dataset with a transform that gives only the named columns. The stored columns stay,
    because the transform reads them."""
    made = dataset.format
    return dataset.with_transform(
        OnlyColumns(made["format_kwargs"]["transform"], frozenset(kept)),
        columns=made["columns"],
        output_all_columns=made["output_all_columns"],
    )
