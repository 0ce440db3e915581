"""Rules for convolutions and transposed convolutions."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ..rows import Convolved, Dense, Patches, Rows, written_out
from .common import RowsByArgument, Unsupported, by_channel, by_sample, positions

# Places per sample above which overlapping patches are not written out. By times on one core at
# k = 8 with 3 x 3 kernels, writing out patches takes two to four times as long at 28 x 28 places
# and equally long at 14 x 14. With fewer places, the product of patches is faster, and `ghost` may
# be faster still.
PLACES = 196


def _convolved(
    k: int,
    B: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: int | Sequence[int],
    padding: int | str | Sequence[int],
    dilation: int | Sequence[int],
    groups: int,
) -> Rows:
    """Rows of a convolution's weight (o, i, *kernel).

    x (k s, i groups, *size), B (k s, o, *places).
    """
    dims = len(kernel)
    stride, dilation = (_each(value, dims) for value in (stride, dilation))
    if isinstance(padding, str):
        total = [d * (size - 1) if padding == "same" else 0 for size, d in zip(kernel, dilation)]
        sides = [(t // 2, t - t // 2) for t in total]
        x, padding = F.pad(x, [p for side in reversed(sides) for p in side]), 0
    padding = _each(padding, dims)
    settings = {"stride": stride, "padding": padding, "dilation": dilation}
    rows = Convolved(by_sample(B, k), by_sample(x, k), kernel, groups, **settings)
    if groups > 1:
        return Dense(written_out([rows], rows.lines, rows.size // rows.lines))
    if B[0, 0].numel() <= PLACES or math.prod(kernel) <= 2 * math.prod(stride):
        # (k s, T, i * kernel)
        return Patches(rows, lambda: positions(_patches(x, kernel, **settings), k))
    return rows


def _patches(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """The patch of the input at each place: x (N, i, *size) -> (N, T, i * kernel)."""
    dims = len(kernel)
    # Treat 1-D convolution as 2-D with height 1.
    if dims == 1:
        x = x[:, :, None]
        kernel, stride = (1, *kernel), (1, *stride)
        padding, dilation = (0, *padding), (1, *dilation)
    if math.prod(kernel) == 1 and not any(padding):
        places: tuple[Any, ...] = (..., *(slice(None, None, s) for s in stride))
        return x[places].flatten(2).mT
    if dims < 3:
        return F.unfold(x, kernel, dilation, padding, stride).mT
    x = F.pad(x, [p for p in reversed(padding) for _ in range(2)])
    for axis, (size, s, d) in enumerate(zip(kernel, stride, dilation)):
        x = x.unfold(2 + axis, d * (size - 1) + 1, s)[..., ::d]  # (N, i, *places, *kernel)
    return x.flatten(2, 1 + dims).movedim(2, 1).flatten(2)  # (N, T, i * kernel)


def _each(value: int | Sequence[int], dims: int) -> tuple[int, ...]:
    """A setting for each axis, from one for all of them or from one for each."""
    values = tuple(value) if isinstance(value, Sequence) else (value,)
    return values * dims if len(values) == 1 else values


def convolution(dims: int) -> Callable:
    """The rule for convolutions over `dims` axes."""

    def rule(
        k: int,
        B: Tensor,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: int | Sequence[int] = 1,
        padding: int | str | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
    ) -> RowsByArgument:
        if input.ndim != dims + 2:
            raise Unsupported("a convolution without a sample axis")
        kernel = weight.shape[2:]
        return {
            "weight": lambda: _convolved(k, B, input, kernel, stride, padding, dilation, groups),
            "bias": lambda: by_channel(B, k),
        }

    return rule


def conv_transpose(dims: int) -> Callable:
    """The rule for transposed convolutions over `dims` axes."""

    def rule(
        k: int,
        B: Tensor,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: int | Sequence[int] = 1,
        padding: int | str | Sequence[int] = 0,
        output_padding: int | Sequence[int] = 0,
        groups: int = 1,
        dilation: int | Sequence[int] = 1,
    ) -> RowsByArgument:
        if input.ndim != dims + 2:
            raise Unsupported("a convolution without a sample axis")
        kernel = weight.shape[2:]
        # Output padding beyond the stride: the input has no values for these places.
        beyond = [p // s for p, s in zip(_each(output_padding, dims), _each(stride, dims))]
        if any(beyond):
            input = F.pad(input, [p for rest in reversed(beyond) for p in (0, rest)])
        # Input and output exchange their roles.
        x, out = B, input
        return {
            "weight": lambda: _convolved(
                k, out.to(B.dtype), x, kernel, stride, padding, dilation, groups
            ),
            "bias": lambda: by_channel(B, k),
        }

    return rule


RULES: dict[str, Callable] = {
    "conv1d": convolution(1),
    "conv2d": convolution(2),
    "conv3d": convolution(3),
    "conv_transpose1d": conv_transpose(1),
    "conv_transpose2d": conv_transpose(2),
    "conv_transpose3d": conv_transpose(3),
}
