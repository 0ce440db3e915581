"""Rules for elementwise functions, and for those that copy, select or join values."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..rows import Dense
from .common import RowsByArgument, Unsupported, by_channel, sum_to


def add(
    k: int, B: Tensor, input: Tensor, other: Tensor | float, *, alpha: float = 1
) -> RowsByArgument:
    return {
        "input": lambda: sum_to(B, input.shape, k),
        "other": lambda: sum_to(alpha * B, other.shape, k),
    }


def sub(
    k: int, B: Tensor, input: Tensor, other: Tensor | float, *, alpha: float = 1
) -> RowsByArgument:
    return {
        "input": lambda: sum_to(B, input.shape, k),
        "other": lambda: sum_to(-alpha * B, other.shape, k),
    }


def rsub(
    k: int, B: Tensor, input: Tensor, other: Tensor | float, *, alpha: float = 1
) -> RowsByArgument:
    return sub(k, -B, input, other, alpha=alpha)


def mul(k: int, B: Tensor, input: Tensor, other: Tensor | float) -> RowsByArgument:
    return {
        "input": lambda: sum_to(B * other, input.shape, k),
        "other": lambda: sum_to(B * input, other.shape, k),
    }


def div(
    k: int, B: Tensor, input: Tensor, other: Tensor | float, *, rounding_mode: str | None = None
) -> RowsByArgument:
    if rounding_mode is not None:
        raise Unsupported("a division that rounds")
    return {
        "input": lambda: sum_to(B / other, input.shape, k),
        "other": lambda: sum_to(-B * input / other**2, other.shape, k),
    }


def prelu(k: int, B: Tensor, input: Tensor, weight: Tensor) -> RowsByArgument:
    G = B * input.clamp_max(0)
    return {
        "weight": lambda: by_channel(G, k) if weight.numel() > 1 else sum_to(G, weight.shape, k)
    }


def where(
    k: int, B: Tensor, condition: Tensor, input: Tensor, other: Tensor | float
) -> RowsByArgument:
    zero = B.new_zeros(())
    return {
        "input": lambda: sum_to(torch.where(condition, B, zero), input.shape, k),
        "other": lambda: sum_to(torch.where(condition, zero, B), other.shape, k),
    }


def masked_fill(
    k: int, B: Tensor, input: Tensor, mask: Tensor, value: Tensor | float
) -> RowsByArgument:
    return {
        "input": where(k, B, mask, value, input)["other"],
        "value": where(k, B, mask, value, input)["input"],
    }


def assigned(input: Tensor, index: Any, value: Tensor | float) -> Tensor:
    """A copy of `input` after `input[index] = value`."""
    output = input.clone()
    output[index] = value
    return output


def copied(input: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    """A copy of `input` after `input.copy_(source)`."""
    return source.expand_as(input).to(input.dtype)


def copy(
    k: int, B: Tensor, input: Tensor, source: Tensor, non_blocking: bool = False
) -> RowsByArgument:
    return {"source": lambda: sum_to(B, source.shape, k)}


def assign(k: int, B: Tensor, input: Tensor, index: Any, value: Tensor) -> RowsByArgument:
    """A parameter that is written to samples: where a mask is set, or at the same index in each."""

    def of_value() -> Dense:
        parts = index if isinstance(index, tuple) else (index,)
        tensors = [p for p in parts if isinstance(p, Tensor)]
        all_samples = isinstance(parts[0], slice) and parts[0] == slice(None)
        if all_samples and not tensors:
            return sum_to(B[index], value.shape, k)
        if value.ndim > B.ndim - sum(p.ndim if p.dtype == torch.bool else 1 for p in tensors):
            raise Unsupported("an assignment of different values to different samples")
        written = torch.zeros_like(B)
        written[index] = B[index]
        return sum_to(written, value.shape, k)

    return {"value": of_value}


def expand(k: int, B: Tensor, input: Tensor, *sizes: int) -> RowsByArgument:
    """A parameter that is repeated for each sample (cls_token): G_n is the n-th slice of B."""
    return {"input": lambda: sum_to(B, input.shape, k)}


def repeat(k: int, B: Tensor, input: Tensor, *sizes: int) -> RowsByArgument:
    sizes = sizes[0] if isinstance(sizes[0], (tuple, list)) else sizes
    if any(size != 1 for size in sizes[1:]):
        raise Unsupported("a repetition along more axes than the samples")
    return expand(k, B, input)


def cat(k: int, B: Tensor, tensors: Sequence[Tensor], dim: int = 0) -> RowsByArgument:
    dim = dim % B.ndim
    if dim == 0:
        raise Unsupported("concatenating a parameter to the batch axis")
    parts = B.split([x.shape[dim] if x.ndim > 1 else 0 for x in tensors], dim)
    return {
        ("tensors", at): partial(sum_to, parts[at], tensors[at].shape, k)
        for at in range(len(tensors))
    }


def stack(k: int, B: Tensor, tensors: Sequence[Tensor], dim: int = 0) -> RowsByArgument:
    dim = dim % B.ndim
    if dim == 0:
        raise Unsupported("concatenating a parameter to the batch axis")
    return {
        ("tensors", at): partial(sum_to, B.select(dim, at), tensors[at].shape, k)
        for at in range(len(tensors))
    }


RULES: dict[str, Callable] = {
    **dict.fromkeys(("add", "__add__", "__radd__"), add),
    **dict.fromkeys(("sub", "subtract", "__sub__"), sub),
    **dict.fromkeys(("rsub", "__rsub__"), rsub),
    **dict.fromkeys(("mul", "multiply", "__mul__", "__rmul__"), mul),
    **dict.fromkeys(("div", "divide", "true_divide", "__truediv__"), div),
    "prelu": prelu,
    "where": where,
    "masked_fill": masked_fill,
    "assigned": assign,
    "copied": copy,
    "expand": expand,
    "expand_as": expand,
    "broadcast_to": expand,
    "repeat": repeat,
    "cat": cat,
    "concat": cat,
    "stack": stack,
}
