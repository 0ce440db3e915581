"""The number of torch's threads on a CPU: one if the model is small."""

import contextlib
import os
from collections.abc import Iterator

import torch
from torch import nn

from .recipe import Recipe

# Below both limits the operations of a step are so short that threads mostly wait for each other.
# If another program is busy, a step then takes many times as long.
SMALL_MODEL, SMALL_BATCH = 2_000_000, 64


@contextlib.contextmanager
def threads_for(recipe: Recipe, model: nn.Module, samples: int) -> Iterator[None]:
    """Within the block, torch uses as many threads as the option `threads` says.

    Args:
        samples: how many samples each operation of a step processes at once.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(number_of_threads(recipe, model, samples))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def number_of_threads(recipe: Recipe, model: nn.Module, samples: int) -> int:
    """The number of threads for a model whose operations process this many samples at once."""
    threads = recipe.options.threads
    if threads != "auto":
        return int(threads)
    return (
        1
        if is_small(model, samples) and recipe.args.device.type == "cpu"
        else torch.get_num_threads()
    )


def is_small(model: nn.Module, samples: int) -> bool:
    """Whether operations on this many samples are too short for several threads."""
    return samples <= SMALL_BATCH and sum(p.numel() for p in model.parameters()) < SMALL_MODEL


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
