"""Rows that a dataset makes on access (`Dataset.with_transform`), without the columns that the
model does not take."""

from collections.abc import Callable
from dataclasses import dataclass

import datasets


@dataclass(frozen=True)
class OnlyColumns:
    """A transform of a dataset, of whose result only some columns are kept."""

    transform: Callable[[dict], dict]
    kept: frozenset[str]

    def __call__(self, rows: dict) -> dict:
        return {name: column for name, column in self.transform(rows).items() if name in self.kept}


def made_on_access(dataset) -> bool:
    return isinstance(dataset, datasets.Dataset) and dataset.format["type"] == "custom"


def only_columns(dataset: datasets.Dataset, kept) -> datasets.Dataset:
    """The dataset with a transform that gives only the named columns. What is stored stays, since
    the transform reads it."""
    made = dataset.format
    return dataset.with_transform(
        OnlyColumns(made["format_kwargs"]["transform"], frozenset(kept)),
        columns=made["columns"],
        output_all_columns=made["output_all_columns"],
    )
