"""Which retain samples each optimizer step sees: a pure function of seed, step and process."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from .seeded import SeededDataset

# Sets the retain samples' random numbers apart from those of forget samples with the same place.
FORGET, RETAIN = range(2)


class RetainSampler(Sampler[list[int]]):
    """Batches of indices for the steps from `first_step` on, without end.

    All processes of a step share one batch of `batch_size * processes` samples, which each takes its part of; an epoch
    is a new permutation, and what does not fill a batch at its end is left for the next. A retain set smaller than
    that batch is used whole in every step.

    Args:
        size: number of samples in the retain set.
        batch_size: samples per step and process.
    """

    def __init__(
        self, size: int, batch_size: int, seed: int, process: int = 0, processes: int = 1, first_step: int = 0
    ):
        if size < processes:
            raise ValueError(
                f"the retain set has {size} samples, but there are {processes} processes: each needs at least one. "
                "Start fewer processes or give more retain samples."
            )
        self.size, self.total, self.seed = size, min(size, batch_size * processes), seed
        self.process, self.processes, self.first_step = process, processes, first_step

    def batch(self, step: int) -> list[int]:
        """The indices that this process takes in a step."""
        epoch, place = divmod(step, self.size // self.total)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(self.size, generator=generator)
        shared = order[place * self.total : (place + 1) * self.total]
        return shared.tensor_split(self.processes)[self.process].tolist()

    def __iter__(self) -> Iterator[list[int]]:
        step = self.first_step
        while True:
            yield self.batch(step)
            step += 1


def _with_steps(sampler: RetainSampler) -> Iterator[list[tuple[int, int]]]:
    for step, indices in enumerate(sampler, sampler.first_step):
        yield [(step, index) for index in indices]


def retain_dataloader(dataset, sampler: RetainSampler, collator: Callable[[list], Any], args) -> DataLoader:
    """Loads the sampler's batches ahead of their use, as `TrainingArguments` says. Random augmentation in a sample
    depends on seed, step and index alone."""
    return DataLoader(
        SeededDataset(dataset, sampler.seed, RETAIN),
        batch_sampler=_with_steps(sampler),
        collate_fn=collator,
        num_workers=args.dataloader_num_workers,
        pin_memory=args.dataloader_pin_memory,
        generator=torch.Generator(),  # its own: the global random state must not depend on when a loader is made
    )
