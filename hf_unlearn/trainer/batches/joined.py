"""The retain set and earlier requests' samples as one dataset, so that a batch can hold both."""

from collections.abc import Callable
from typing import Any

import datasets
from torch.utils.data import ConcatDataset

Collated = tuple[Any, Callable[[list], dict]]


def join(first: Collated, second: Collated) -> Collated:
    """Two datasets as one, and a collator that takes the samples of both.

    Args:
        first, second: each with its collator, as `UnlearnTrainer.collated` gives them: a
            `datasets.Dataset` has lost the columns that the model does not take, and from the
            samples of any other dataset its collator removes them.
    """
    removes = not isinstance(second[0], datasets.Dataset)
    return ConcatDataset([first[0], second[0]]), second[1] if removes else first[1]
