"""Float64 on any device: on the device itself, or on the CPU where the device has no float64 (MPS).

Most float64 tensors are small: K (k, k), b (k,) and squared lengths. The exception is rows that are
so nearly dependent that their inner products need float64 themselves.
"""

import functools

import torch
from torch import Tensor

# Without float64 on the device, this many values are summed in float32; the partial sums are then
# summed in float64 on the CPU.
SUM_BLOCK = 2**10


@functools.cache
def has_float64(device: torch.device) -> bool:
    """Whether a device computes in float64."""
    try:
        return float(torch.ones(1, dtype=torch.float64, device=device) * 2) == 2
    except (TypeError, RuntimeError):
        return False


def float64_device(device: torch.device) -> torch.device:
    """The device for float64 results computed from tensors on `device`."""
    return device if has_float64(device) else torch.device("cpu")


def to_float64(x: Tensor) -> Tensor:
    """x in float64, on `float64_device`."""
    # Move first: a device without float64 cannot convert to it.
    return x.to(float64_device(x.device)).double()


def move_to(x: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """x in another dtype and on another device."""
    # Convert first: the device may have no float64.
    return x.to(dtype).to(device)


def sum_float64(x: Tensor, axes: tuple[int, ...] | int | None = None) -> Tensor:
    """The float64 sum over some axes, or over all values."""
    if has_float64(x.device):
        return x.sum(axes, dtype=torch.float64)
    if axes is None and x.numel() > SUM_BLOCK:
        x = x.flatten()
        end = len(x) - len(x) % SUM_BLOCK
        # (end / SUM_BLOCK,) partial sums, then the values left over
        x = torch.cat([x[:end].view(-1, SUM_BLOCK).sum(1), x[end:]])
    return to_float64(x).sum(axes)
