"""Evaluates samples in the order of their labels' lengths: texts of about the same length are
generated together, so that no batch waits for a single long text."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import EvalPrediction
from transformers.trainer_utils import EvalLoopOutput

ROWS_AT_ONCE = 1000


class ByLength(Sampler):
    """The indices of a dataset's samples, those with the longest labels first."""

    def __init__(self, lengths: np.ndarray):
        self.order = np.argsort(-lengths, kind="stable")

    def __iter__(self) -> Iterator[int]:
        return iter(self.order.tolist())

    def __len__(self) -> int:
        return len(self.order)


def by_length(dataset: Dataset) -> ByLength | None:
    """The sampler for a dataset; None if the lengths of its labels are not known without reading
    its samples."""
    if not isinstance(dataset, datasets.Dataset) or "labels" not in dataset.column_names:
        return None
    if not isinstance(dataset.features["labels"], datasets.List):
        return None
    rows = dataset.select_columns("labels").with_format("arrow")
    lengths = [pc.list_value_length(some["labels"]) for some in rows.iter(ROWS_AT_ONCE)]
    return ByLength(np.concatenate(lengths)) if lengths else None


def order_of(loader: DataLoader) -> np.ndarray | None:
    """The order in which a data loader reads its dataset, if it is by length; else None."""
    batches = getattr(loader, "batch_sampler", None)
    sampler = getattr(batches, "sampler", getattr(loader, "sampler", None))
    return sampler.order if isinstance(sampler, ByLength) else None


def in_dataset_order(
    compute_metrics: Callable[[EvalPrediction], dict], order: np.ndarray
) -> Callable[[EvalPrediction], dict]:
    """The function of metrics for samples that come in another order. It gets them in the
    dataset's."""
    back = np.argsort(order)

    def computed(prediction: EvalPrediction) -> dict:
        parts = {
            name: _reorder(getattr(prediction, name), back)
            for name in ("predictions", "label_ids", "inputs", "losses")
        }
        return compute_metrics(EvalPrediction(**parts))

    return computed


def output_in_dataset_order(output: EvalLoopOutput, order: np.ndarray) -> EvalLoopOutput:
    """The output of an evaluation, with its samples in the dataset's order."""
    back = np.argsort(order)
    return output._replace(
        predictions=_reorder(output.predictions, back), label_ids=_reorder(output.label_ids, back)
    )


def _reorder(values: Any, indices: Sequence[int]) -> Any:
    """Arrays, or tuples, lists and dicts of them, with their rows in another order."""
    if isinstance(values, tuple | list):
        return type(values)(_reorder(value, indices) for value in values)
    if isinstance(values, dict):
        return {name: _reorder(value, indices) for name, value in values.items()}
    return values[indices] if isinstance(values, np.ndarray) else values
