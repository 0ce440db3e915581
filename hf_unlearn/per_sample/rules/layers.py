"""Rules for look-ups, normalisation and attention."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..rows import Dense, Lookup
from .common import RowsByArgument, Unsupported, by_channel, by_sample, sum_to


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
) -> RowsByArgument:
    if max_norm is not None or scale_grad_by_freq or sparse:
        raise Unsupported("an embedding with max_norm, scale_grad_by_freq or sparse gradients")
    ids = by_sample(input, k).reshape(k, -1)  # (k, T)
    B = B.reshape(*B.shape[: input.ndim], -1)
    B = by_sample(B, k).reshape(k, -1, B.shape[-1])  # (k, T, d)
    # This line receives no gradient.
    if padding_idx is not None:
        B = B.masked_fill((ids == padding_idx % len(weight))[:, :, None], 0)
    return {"weight": lambda: Lookup(B, ids, len(weight))}


def getitem(k: int, B: Tensor, input: Tensor, index: object) -> RowsByArgument:
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
) -> RowsByArgument:
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
) -> RowsByArgument:
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
) -> RowsByArgument:
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
) -> RowsByArgument:
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
) -> RowsByArgument:
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
) -> RowsByArgument:
    """Scaled dot-product attention with an additive bias, as for relative positions.

    out = P V with P = softmax(scale Q K^T + bias).
    """

    def of_bias() -> Dense:
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
    "scaled_dot_product_attention": attention,
}
