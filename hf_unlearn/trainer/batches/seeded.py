"""Random numbers that depend only on where they are used: on seed, step or epoch, and sample."""

import contextlib
import random
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

# The first of a sample's seeds, so that forget and retain samples of the same index draw different
# random numbers.
FORGET, RETAIN = range(2)


class SeededDataset(Dataset):
    """A dataset whose samples draw their random numbers (of torch, NumPy and Python) from a seed,
    the epoch or step, and their index.

    Data loaders read ahead, and a resumed run skips batches without reading them. With the global
    generators, random augmentation would therefore change. The state of those generators is
    restored after each sample.

    Args:
        dataset: anything with a length and indexed access.
        seed: integers.

    Attributes:
        epoch: in shared memory, because a data loader's worker processes may outlive an epoch.
    """

    def __init__(self, dataset: Any, *seed: int):
        self.dataset, self.seed = dataset, seed
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: int | tuple[int, int]) -> Any:
        """A sample, by its index or by (step, index); an index alone stands for the current
        epoch."""
        time, index = key if isinstance(key, tuple) else (int(self.epoch), key)
        with seeded(*self.seed, time, index):
            return self.dataset[index]


@contextlib.contextmanager
def seeded(*seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Within this context random numbers depend only on these integers; afterwards the previous
    random state is restored.

    Args:
        device: a GPU (of any maker) whose generator is seeded as well as the CPU's.
    """
    number = int(np.random.SeedSequence([n % 2**64 for n in seed]).generate_state(1)[0])
    with random_state_kept(device):
        torch.random.default_generator.manual_seed(number)
        np.random.seed(number)
        random.seed(number)
        if (module := _module_of(device)) is not None:
            # MPS is a single device and has no such context.
            with getattr(module, "device", contextlib.nullcontext)(device):
                module.manual_seed(number)
        yield


@contextlib.contextmanager
def random_state_kept(device: torch.device | None = None) -> Iterator[None]:
    """Restores the random state (of torch, NumPy and Python) at the end of the context."""
    state, module = CpuRandomState(), _module_of(device)
    of_device = None if module is None else module.get_rng_state(device)
    try:
        yield
    finally:
        state.restore()
        if module is not None:
            module.set_rng_state(of_device, device)


def random_state(device: torch.device | None = None) -> tuple:
    """What the generators of torch, NumPy and Python hold now, to be compared with `==`."""
    module, of_numpy = _module_of(device), np.random.get_state(legacy=False)["state"]
    of_device = b"" if module is None else module.get_rng_state(device).cpu().numpy().tobytes()
    of_torch = torch.get_rng_state().numpy().tobytes()
    of_numpy = of_numpy["key"].tobytes(), of_numpy["pos"]
    return of_torch, of_device, of_numpy, random.getstate()


class CpuRandomState:
    """The state that the generators of torch (on the CPU), NumPy and Python have now."""

    def __init__(self) -> None:
        self._torch, self._numpy = torch.get_rng_state(), np.random.get_state()
        self._python = random.getstate()

    def restore(self) -> None:
        torch.set_rng_state(self._torch)
        np.random.set_state(self._numpy)
        random.setstate(self._python)


def _module_of(device: torch.device | None) -> ModuleType | None:
    """The module of torch for a kind of device with a generator of its own (torch.cuda,
    torch.mps)."""
    if device is None or device.type in ("cpu", "meta"):
        return None
    return torch.get_device_module(device)
