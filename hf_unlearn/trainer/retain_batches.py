"""Which retain samples each optimizer step sees: a pure function of seed, step and process."""

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

# Sets the retain samples' random numbers apart from those of forget samples with the same place.
FORGET, RETAIN = range(2)


class RetainSampler(Sampler[list[int]]):
    """Batches of indices for the steps from `first_step` on, without end.

    All processes of a step share one batch of `batch_size * processes` samples, which each takes
    its part of; an epoch is a new permutation, and what does not fill a batch at its end is left
    for the next. A retain set smaller than that batch is used whole in every step.

    Args:
        size: number of samples in the retain set.
        batch_size: samples per step and process.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        process: int = 0,
        processes: int = 1,
        first_step: int = 0,
    ):
        if size < processes:
            raise ValueError(
                f"the retain set has {size} samples, but there are {processes} processes: each "
                "needs at least one. "
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


def retain_dataloader(
    dataset, sampler: RetainSampler, collator: Callable[[list], Any], args
) -> DataLoader:
    """Loads the sampler's batches ahead of their use, as `TrainingArguments` says. Random
    augmentation in a sample depends on seed, step and index alone."""
    return DataLoader(
        SeededDataset(dataset, sampler.seed, RETAIN),
        batch_sampler=_with_steps(sampler),
        collate_fn=collator,
        num_workers=args.dataloader_num_workers,
        pin_memory=args.dataloader_pin_memory,
        # its own: the global random state must not depend on when a loader is made
        generator=torch.Generator(),
    )


class SeededDataset(Dataset):
    """A dataset whose samples take their random numbers (of torch, NumPy and Python) from where
    they are asked for.

    Data loaders read ahead, and a resumed run skips batches without reading them: from the global
    generators, samples that are augmented at random would come out differently there. These are
    left as they were.

    Args:
        dataset: anything with a length and indexed access.
        seed: whole numbers.

    Attributes:
        epoch: in shared memory, since the processes of a data loader may outlive an epoch.
    """

    def __init__(self, dataset, *seed: int):
        self.dataset, self.seed = dataset, seed
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, place: int | tuple[int, int]):
        """A sample, by its index alone or by step and index."""
        time, index = place if isinstance(place, tuple) else (int(self.epoch), place)
        with seeded(*self.seed, time, index):
            return self.dataset[index]


@contextlib.contextmanager
def seeded(*seed: int, device: torch.device | None = None):
    """Within this context random numbers (of the CPU, and of a GPU that is given) depend on these
    whole numbers alone; then they go on as before."""
    number = int(np.random.SeedSequence([n % 2**64 for n in seed]).generate_state(1)[0])
    with random_state_kept(device):
        torch.random.default_generator.manual_seed(number)
        np.random.seed(number)
        random.seed(number)
        if _is_gpu(device):
            with torch.cuda.device(device):
                torch.cuda.manual_seed(number)
        yield


@contextlib.contextmanager
def random_state_kept(device: torch.device | None = None):
    """A context after which random numbers (of torch, NumPy and Python) go on as if nothing had
    been computed in it."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    of_gpu = torch.cuda.get_rng_state(device) if _is_gpu(device) else None
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
        if of_gpu is not None:
            torch.cuda.set_rng_state(of_gpu, device)


def _is_gpu(device: torch.device | None) -> bool:
    return device is not None and device.type == "cuda"
