"""Per-sample weight gradients, one rule for each function of torch that a parameter can meet the samples in.

A rule has the signature of its function with k and the output's gradient B put in front, and returns, for each
argument that may be a weight, a function that makes the `Rows` of its per-sample gradients G_n (called only for what
trains). Samples lie along the leading axis, alone or with other axes folded into it (Swin's windows). k is the number
of samples, T all positions between the sample axis and the channels.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .rows import Dense, Lookup, Product


class Unsupported(Exception):
    """The samples' shares in the gradient of `parameters` cannot be told apart here; the slow, exact path can."""

    def __init__(self, reason: str, parameters: tuple[nn.Parameter, ...] = ()):
        super().__init__(reason)
        self.parameters = parameters


def by_sample(x: Tensor, k: int) -> Tensor:
    """(k * s, ...) -> (k, s, ...)."""
    if x.ndim == 0 or len(x) % k:
        raise Unsupported(f"a tensor of shape {tuple(x.shape)} does not divide over {k} samples")
    return x.reshape(k, len(x) // k, *x.shape[1:])


def positions(x: Tensor, k: int) -> Tensor:
    """(k * s, ..., c) -> (k, T, c)."""
    return by_sample(x, k).reshape(k, -1, x.shape[-1])


def sum_to(x: Tensor, shape: torch.Size, k: int) -> Dense:
    """Undoes broadcasting for each sample: x (k * s, ...) is the gradient of a parameter used elementwise."""
    padded = (1,) * (x.ndim - len(shape)) + tuple(shape)
    if len(padded) > x.ndim or padded[0] != 1:
        raise Unsupported(f"a parameter of shape {tuple(shape)} has values of its own along the sample axis")
    axes = [1] + [axis + 1 for axis in range(1, x.ndim) if padded[axis] == 1]
    return Dense(by_sample(x, k).sum(axes, dtype=x.dtype).reshape(k, *shape))


def linear(k, B, input, weight, bias=None):
    return {
        "weight": lambda: Product(positions(B, k), positions(input, k)),
        "bias": lambda: Dense(positions(B, k).sum(1)),
    }


def matmul(k, B, input, other):
    if other.ndim != 2:
        raise Unsupported("a batch of weight matrices")
    return {"other": lambda: Product(positions(input, k), positions(B, k))}  # out = X W: G_n = X_n^T B_n


def addmm(k, B, input, mat1, mat2, *, beta=1, alpha=1):
    if beta != 1 or alpha != 1:
        raise Unsupported("addmm with beta or alpha")
    return {
        "input": lambda: sum_to(B, input.shape, k),
        "mat2": lambda: Product(positions(mat1, k), positions(B, k)),
    }


def embedding(
    k, B, input, weight, padding_idx=None, max_norm=None, norm_type=2.0, scale_grad_by_freq=False, sparse=False
):
    if max_norm is not None or scale_grad_by_freq or sparse:
        raise Unsupported("an embedding with max_norm, scale_grad_by_freq or sparse gradients")
    ids = by_sample(input, k).reshape(k, -1)
    B = positions(B, k)
    if padding_idx is not None:  # this line receives no gradient
        B = B.masked_fill((ids == padding_idx % len(weight))[:, :, None], 0)
    return {"weight": lambda: Lookup(B, ids, len(weight))}


def getitem(k, B, input, index):
    if not isinstance(index, Tensor) or index.is_floating_point() or index.dtype == torch.bool or input.ndim != 2:
        raise Unsupported("an index that is not a tensor of line numbers")
    rows = embedding(k, B, torch.where(index < 0, index + len(input), index), input)
    return {"input": rows["weight"]}


def layer_norm(k, B, input, normalized_shape, weight=None, bias=None, eps=1e-5):
    return {
        "weight": lambda: sum_to(B * F.layer_norm(input.to(B.dtype), normalized_shape, eps=eps), weight.shape, k),
        "bias": lambda: sum_to(B, bias.shape, k),
    }


def batch_norm(k, B, input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    if training:
        raise Unsupported("batch statistics mix the samples")

    def channels(x):
        return Dense(by_sample(x, k).flatten(3).sum((1, 3)) if x.ndim > 2 else by_sample(x, k).sum(1))

    return {
        "weight": lambda: channels(B * F.batch_norm(input.to(B.dtype), running_mean, running_var, eps=eps)),
        "bias": lambda: channels(B),
    }


def conv1d(k, B, input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    def pair(value, neutral):
        return (neutral, value if isinstance(value, int) else value[0])

    if isinstance(padding, str):
        raise Unsupported("a convolution with padding given by name")
    return conv2d(
        k, B[:, :, None], input[:, :, None], weight[:, :, None], bias, pair(stride, 1), pair(padding, 0),
        pair(dilation, 1), groups
    )  # fmt: skip


def conv2d(k, B, input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    if isinstance(padding, str):
        raise Unsupported("a convolution with padding given by name")
    grads = B.flatten(2)  # (k s, o, T)

    def weight_rows():
        patches = F.unfold(input.to(B.dtype), weight.shape[2:], dilation, padding, stride)  # (k s, i kh kw, T)
        if groups == 1:
            return Product(positions(grads.mT, k), positions(patches.mT, k))
        X, G = patches.unflatten(1, (groups, -1)), grads.unflatten(1, (groups, -1))
        return Dense(by_sample(torch.einsum("ngot,ngit->ngoi", G, X), k).sum(1).flatten(1, 2))  # (k, o, i kh kw)

    return {"weight": weight_rows, "bias": lambda: Dense(by_sample(grads.sum(2), k).sum(1))}


def add(k, B, input, other, *, alpha=1):
    if alpha != 1:
        raise Unsupported("add with alpha")
    return {"input": lambda: sum_to(B, input.shape, k), "other": lambda: sum_to(B, other.shape, k)}


def mul(k, B, input, other):
    return {
        "input": lambda: sum_to(B * other, input.shape, k),
        "other": lambda: sum_to(B * input, other.shape, k),
    }


def expand(k, B, input, *sizes):
    """A parameter that is repeated for each sample (cls_token): G_n is the n-th slice of B."""
    return {"input": lambda: sum_to(B, input.shape, k)}


def repeat(k, B, input, *sizes):
    sizes = sizes[0] if isinstance(sizes[0], (tuple, list)) else sizes
    if any(size != 1 for size in sizes[1:]):
        raise Unsupported("a repetition along more axes than the samples")
    return expand(k, B, input)


# By name, since `torch.add`, `Tensor.add` and `x + y` are three functions with one meaning.
RULES: dict[str, Callable] = {
    "linear": linear,
    "matmul": matmul,
    "__matmul__": matmul,
    "mm": matmul,
    "addmm": addmm,
    "embedding": embedding,
    "__getitem__": getitem,
    "layer_norm": layer_norm,
    "batch_norm": batch_norm,
    "conv1d": conv1d,
    "conv2d": conv2d,
    "add": add,
    "__add__": add,
    "__radd__": add,
    "mul": mul,
    "multiply": mul,
    "__mul__": mul,
    "__rmul__": mul,
    "expand": expand,
    "repeat": repeat,
}
