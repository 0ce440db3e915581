"""Random numbers that are the same when they are drawn again: a pure function of seed, epoch or step, and index."""

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
def seeded(*seed: int, device: torch.device | None = None):
    """Within this context random numbers (of the CPU, and of a GPU that is given) depend on these whole numbers alone;
    then they go on as before."""
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
    """A context after which random numbers (of torch, NumPy and Python) go on as if nothing had been computed in it."""
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
