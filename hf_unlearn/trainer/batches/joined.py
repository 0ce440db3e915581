"""The retain set and earlier requests' samples as one dataset, so that a batch can hold both."""

from collections.abc import Callable
from typing import Any

import datasets
from torch.utils.data import Dataset

Collated = tuple[Any, Callable[[list], dict]]


class Joined(Dataset):
    """The samples of one dataset after those of another; both have a length and indexed access."""

    def __init__(self, first: Any, second: Any):
        self.first, self.second = first, second

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __getitem__(self, index: int) -> Any:
        start = len(self.first)
        return self.first[index] if index < start else self.second[index - start]


def joined(first: Collated, second: Collated) -> Collated:
    """Two datasets as one, and a collator that takes the samples of both.

    Args:
        first, second: each with its collator, as `LoadingTrainer.collated` gives them: a
            `datasets.Dataset` has lost the columns that the model does not take, and from the
            samples of any other dataset its collator removes them.
    """
    removes = not isinstance(second[0], datasets.Dataset)
    return Joined(first[0], second[0]), second[1] if removes else first[1]
