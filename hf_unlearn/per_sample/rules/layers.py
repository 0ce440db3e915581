"""Rules for what layers compute beside products: look-ups, normalisation, convolutions, attention with a bias."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..rows import Dense, Lookup, Product
from .common import Unsupported, by_channel, by_sample, positions, sum_to


def embedding(
    k, B, input, weight, padding_idx=None, max_norm=None, norm_type=2.0, scale_grad_by_freq=False, sparse=False
):
    if max_norm is not None or scale_grad_by_freq or sparse:
        raise Unsupported("an embedding with max_norm, scale_grad_by_freq or sparse gradients")
    ids = by_sample(input, k).reshape(k, -1)
    B = B.reshape(*B.shape[: input.ndim], -1)
    B = by_sample(B, k).reshape(k, -1, B.shape[-1])
    if padding_idx is not None:  # this line receives no gradient
        B = B.masked_fill((ids == padding_idx % len(weight))[:, :, None], 0)
    return {"weight": lambda: Lookup(B, ids, len(weight))}


def getitem(k, B, input, index):
    if not isinstance(index, Tensor) or index.is_floating_point() or index.dtype == torch.bool or input.ndim < 2:
        raise Unsupported("an index that is not a tensor of line numbers")
    rows = embedding(k, B, torch.where(index < 0, index + len(input), index), input)
    return {"input": rows["weight"]}


def layer_norm(k, B, input, normalized_shape, weight=None, bias=None, eps=1e-5):
    return {
        "weight": lambda: sum_to(B * F.layer_norm(input.to(B.dtype), normalized_shape, eps=eps), weight.shape, k),
        "bias": lambda: sum_to(B, bias.shape, k),
    }


def rms_norm(k, B, input, normalized_shape, weight=None, eps=None):
    return {"weight": lambda: sum_to(B * F.rms_norm(input.to(B.dtype), normalized_shape, eps=eps), weight.shape, k)}


def batch_norm(k, B, input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    if training:
        raise Unsupported("batch statistics mix the samples")
    return {
        "weight": lambda: by_channel(B * F.batch_norm(input.to(B.dtype), running_mean, running_var, eps=eps), k),
        "bias": lambda: by_channel(B, k),
    }


def group_norm(k, B, input, num_groups, weight=None, bias=None, eps=1e-5):
    return {
        "weight": lambda: by_channel(B * F.group_norm(input.to(B.dtype), num_groups, eps=eps), k),
        "bias": lambda: by_channel(B, k),
    }


def instance_norm(
    k,
    B,
    input,
    running_mean=None,
    running_var=None,
    weight=None,
    bias=None,
    use_input_stats=True,
    momentum=0.1,
    eps=1e-5,
):
    def normalised():
        return F.instance_norm(input.to(B.dtype), running_mean, running_var, None, None, use_input_stats, 0.0, eps)

    return {"weight": lambda: by_channel(B * normalised(), k), "bias": lambda: by_channel(B, k)}


def _patches(x: Tensor, kernel, stride, padding, dilation) -> Tensor:
    """What the kernel meets at each of its places: x (N, c, *size) -> (N, T, c * kernel)."""
    dims = x.ndim - 2
    stride, dilation = (_each(value, dims) for value in (stride, dilation))
    if padding == "same":
        total = [d * (size - 1) for size, d in zip(kernel, dilation)]
        sides = [(t // 2, t - t // 2) for t in total]
    else:
        sides = [(p, p) for p in ([0] * dims if padding == "valid" else _each(padding, dims))]
    if dims == 2 and all(left == right for left, right in sides):
        return F.unfold(x, kernel, dilation, tuple(left for left, _ in sides), stride).mT
    x = F.pad(x, [p for side in reversed(sides) for p in side])
    for axis, (size, s, d) in enumerate(zip(kernel, stride, dilation)):
        x = x.unfold(2 + axis, d * (size - 1) + 1, s)[..., ::d]  # (N, c, *places, *kernel)
    x = x.flatten(2, 1 + dims) if dims > 1 else x
    return x.movedim(2, 1).flatten(2)


def _each(value, dims: int) -> tuple[int, ...]:
    value = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return value * dims if len(value) == 1 else value


def _grouped(G: Tensor, X: Tensor, groups: int, k: int) -> Product | Dense:
    """Rows of a weight (o, i) from G (k s, T, o) and X (k s, T, i), each line of a group meeting its own inputs."""
    if groups == 1:
        return Product(positions(G, k), positions(X, k))
    G, X = G.unflatten(2, (groups, -1)), X.unflatten(2, (groups, -1))
    return Dense(by_sample(torch.einsum("ntgo,ntgi->ngoi", G, X.to(G.dtype)), k).sum(1).flatten(1, 2))


def convolution(dims: int):
    def rule(k, B, input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
        if input.ndim != dims + 2:
            raise Unsupported("a convolution without a sample axis")

        def of_weight():
            x, kernel = input.to(B.dtype), weight.shape[2:]
            if dims == 1 and not isinstance(padding, str):  # as an image of one line
                one = (_each(stride, 1), _each(padding, 1), _each(dilation, 1))
                X = _patches(x[:, :, None], (1, *kernel), (1, *one[0]), (0, *one[1]), (1, *one[2]))
            else:
                X = _patches(x, kernel, stride, padding, dilation)
            return _grouped(B.flatten(2).mT, X, groups, k)

        return {"weight": of_weight, "bias": lambda: by_channel(B, k)}

    return rule


def conv_transpose(k, B, input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    def of_weight():
        X = input.flatten(2).mT  # (k s, T, i): the roles of input and output are exchanged
        G = _patches(B, weight.shape[2:], stride, padding, dilation)[:, : X.shape[1]]
        return _grouped(X.to(B.dtype), G, groups, k)

    if any(_each(output_padding, input.ndim - 2)) and input.ndim > 3:
        raise Unsupported("a transposed convolution with output padding")
    return {"weight": of_weight, "bias": lambda: by_channel(B, k)}


def attention(k, B, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    """The scores' additive bias, as that of relative positions: out = P V, P = softmax(scale Q K^T + bias)."""

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
    "conv_transpose1d": conv_transpose,
    "conv_transpose2d": conv_transpose,
    "conv_transpose3d": conv_transpose,
    "scaled_dot_product_attention": attention,
}
