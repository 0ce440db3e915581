"""Rules for layers other than matrix products: look-ups, normalisation, convolutions, attention."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..rows import Convolved, Dense, Lookup, Patches, Rows, written_out
from .common import Unsupported, by_channel, by_sample, positions, sum_to


def embedding(
    k: int,
    B: Tensor,
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
):
    if max_norm is not None or scale_grad_by_freq or sparse:
        raise Unsupported("an embedding with max_norm, scale_grad_by_freq or sparse gradients")
    ids = by_sample(input, k).reshape(k, -1)  # (k, T)
    B = B.reshape(*B.shape[: input.ndim], -1)
    B = by_sample(B, k).reshape(k, -1, B.shape[-1])  # (k, T, d)
    # This line receives no gradient.
    if padding_idx is not None:
        B = B.masked_fill((ids == padding_idx % len(weight))[:, :, None], 0)
    return {"weight": lambda: Lookup(B, ids, len(weight))}


def getitem(k: int, B: Tensor, input: Tensor, index: object):
    if (
        not isinstance(index, Tensor)
        or index.is_floating_point()
        or index.dtype == torch.bool
        or input.ndim < 2
    ):
        raise Unsupported("an index that is not a tensor of line numbers")
    rows = embedding(k, B, torch.where(index < 0, index + len(input), index), input)
    return {"input": rows["weight"]}


def layer_norm(
    k: int,
    B: Tensor,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
):
    return {
        "weight": lambda: sum_to(
            B * F.layer_norm(input.to(B.dtype), normalized_shape, eps=eps), weight.shape, k
        ),
        "bias": lambda: sum_to(B, bias.shape, k),
    }


def rms_norm(
    k: int,
    B: Tensor,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor = None,
    eps: float | None = None,
):
    return {
        "weight": lambda: sum_to(
            B * F.rms_norm(input.to(B.dtype), normalized_shape, eps=eps), weight.shape, k
        )
    }


def batch_norm(
    k: int,
    B: Tensor,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
):
    if training:
        raise Unsupported("batch statistics mix the samples")
    return {
        "weight": lambda: _scale(
            k, B, input, lambda x: F.batch_norm(x, running_mean, running_var, eps=eps)
        ),
        "bias": lambda: by_channel(B, k),
    }


def group_norm(
    k: int,
    B: Tensor,
    input: Tensor,
    num_groups: int,
    weight: Tensor = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
):
    return {
        "weight": lambda: _scale(k, B, input, lambda x: F.group_norm(x, num_groups, eps=eps)),
        "bias": lambda: by_channel(B, k),
    }


def instance_norm(
    k: int,
    B: Tensor,
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
):
    def normalised(x: Tensor) -> Tensor:
        return F.instance_norm(x, running_mean, running_var, None, None, use_input_stats, 0.0, eps)

    return {
        "weight": lambda: _scale(k, B, input, normalised),
        "bias": lambda: by_channel(B, k),
    }


# How many values of a CPU's activations are normalised at a time: few enough to stay in its caches.
CACHED_VALUES = 2**20


def _scale(k: int, B: Tensor, x: Tensor, normalised: Callable[[Tensor], Tensor]) -> Dense:
    """Rows (k, c) of a normalisation's scale: B times the normalised x, summed over places.

    Args:
        B, x: (k * s, c, ...).
        normalised: normalises some samples.
    """
    few = max(1, CACHED_VALUES * k // max(1, B.numel())) if B.device.type == "cpu" else k
    parts = zip(by_sample(B, k).split(few), by_sample(x, k).split(few))
    return Dense(
        torch.cat(
            [
                by_channel(
                    B_n.flatten(0, 1) * normalised(x_n.flatten(0, 1).to(B.dtype)), len(B_n)
                ).G
                for B_n, x_n in parts
            ]
        )
    )


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
        return x[(..., *(slice(None, None, s) for s in stride))].flatten(2).mT
    if dims < 3:
        return F.unfold(x, kernel, dilation, padding, stride).mT
    x = F.pad(x, [p for p in reversed(padding) for _ in range(2)])
    for axis, (size, s, d) in enumerate(zip(kernel, stride, dilation)):
        x = x.unfold(2 + axis, d * (size - 1) + 1, s)[..., ::d]  # (N, i, *places, *kernel)
    return x.flatten(2, 1 + dims).movedim(2, 1).flatten(2)  # (N, T, i * kernel)


def _each(value: int | Sequence[int], dims: int) -> tuple[int, ...]:
    """A setting for each axis, from one for all of them or from one for each."""
    value = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return value * dims if len(value) == 1 else value


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
    ):
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
    ):
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


def attention(
    k: int,
    B: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
):
    """Scaled dot-product attention with an additive bias, as for relative positions.

    out = P V with P = softmax(scale Q K^T + bias).
    """

    def of_bias():
        if dropout_p:
            raise Unsupported("attention with dropout")
        Q, K, V = (x.to(B.dtype) for x in (query, key, value))
        if enable_gqa:
            K, V = (x.repeat_interleave(Q.shape[-3] // x.shape[-3], -3) for x in (K, V))
        P = (Q @ K.mT * (Q.shape[-1] ** -0.5 if scale is None else scale) + attn_mask).softmax(-1)
        G = P * (B @ V.mT)
        return sum_to(G - P * G.sum(-1, keepdim=True), attn_mask.shape, k)

    return {"attn_mask": of_bias}


RULES: dict[str, Callable] = {
    "embedding": embedding,
    "__getitem__": getitem,
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
    "batch_norm": batch_norm,
    "group_norm": group_norm,
    "instance_norm": instance_norm,
    "conv1d": convolution(1),
    "conv2d": convolution(2),
    "conv3d": convolution(3),
    "conv_transpose1d": conv_transpose(1),
    "conv_transpose2d": conv_transpose(2),
    "conv_transpose3d": conv_transpose(3),
    "scaled_dot_product_attention": attention,
}
