"""Random augmentation that is the same in a resumed run: a pure function of seed, epoch or step, and index."""

import contextlib
import random

import numpy as np
import torch
from torch.utils.data import Dataset


class SeededDataset(Dataset):
    """A dataset whose samples take their random numbers (of torch, NumPy and Python) from where they are asked for.

    Data loaders read ahead, and a resumed run skips batches without reading them: from the global generators, samples
    that are augmented at random would come out differently there. These are left as they were.

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
def seeded(*seed: int):
    """Within this context the CPU's random numbers depend on these whole numbers alone; then they go on as before."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    number = int(np.random.SeedSequence([n % 2**64 for n in seed]).generate_state(1)[0])
    torch.random.default_generator.manual_seed(number)
    np.random.seed(number)
    random.seed(number)
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
