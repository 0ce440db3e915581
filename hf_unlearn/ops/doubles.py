"""Where float64 is: on the device itself, or, for devices that have none (Apple's MPS), on the CPU.

What is added up in float64 is small, K (k, k), b (k,) and lengths, but for rows that are so nearly
dependent that they are measured in float64 themselves.
"""

import functools

import torch
from torch import Tensor

# Values that are added up in float32, where there is no float64, before all such sums are.
BLOCK = 2**10


@functools.cache
def has_float64(device: torch.device) -> bool:
    try:
        return float(torch.ones(1, dtype=torch.float64, device=device) * 2) == 2
    except (TypeError, RuntimeError):
        return False


def home_of_doubles(device: torch.device) -> torch.device:
    """Where the float64 tensors are that belong to tensors on a device."""
    return device if has_float64(device) else torch.device("cpu")


def doubled(x: Tensor) -> Tensor:
    """x in float64."""
    # in this order: a device without float64 cannot convert to it
    return x.to(home_of_doubles(x.device)).double()


def moved(x: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor, of float64 perhaps, as a device takes it."""
    return x.to(dtype).to(device)


def summed(x: Tensor, axes: tuple[int, ...] | int | None = None) -> Tensor:
    """The sum over some axes, or over all values, in float64."""
    if has_float64(x.device):
        return x.sum(axes, dtype=torch.float64)
    if axes is None and x.numel() > BLOCK:
        x = x.flatten()
        whole = len(x) - len(x) % BLOCK
        x = torch.cat([x[:whole].view(-1, BLOCK).sum(1), x[whole:]])
    return doubled(x).sum(axes)
