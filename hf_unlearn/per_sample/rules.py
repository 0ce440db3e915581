"""Per-sample weight gradients, one rule for each function of torch that a parameter can meet the samples in.

A rule has the signature of its function with k and the output's gradient B put in front, and returns, for each
argument that may be a weight, a function that makes the `Rows` of its per-sample gradients G_n (called only for what
trains). Samples lie along the leading axis, alone or with other axes folded into it (Swin's windows). k is the number
of samples, T all positions between the sample axis and the channels.
"""

import math
from bisect import bisect_left
from collections.abc import Callable
from functools import cached_property
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Unsupported(Exception):
    """The samples' shares in the gradient of `parameters` cannot be told apart here; the slow, exact path can."""

    def __init__(self, reason: str, parameters: tuple[nn.Parameter, ...] = ()):
        super().__init__(reason)
        self.parameters = parameters


class Rows(Protocol):
    """The k per-sample gradients of one parameter from one use, as rows of A that need not exist in memory.

    A parameter of shape (m, ...) is seen as m lines; `chunk` gives the rows for some lines at a time.
    """

    def chunk(self, start: int, stop: int, total: Tensor | None = None) -> Tensor:
        """G[:, start:stop] as (k, stop - start, numel / m), added to `total` where that is given."""

    def weighted(self, weights: Tensor, total: Tensor | None = None) -> Tensor:
        """sum_n w_n G_n, flat, added to `total` (which is overwritten) where that is given; weights (k,)."""

    def gathered(self, gather: Callable[[Tensor], Tensor]) -> "Rows":
        """The rows of all processes; `gather` concatenates tensors (k, T, ...) or (k, ...) along the samples."""


class Product:
    """G_n = B_n^T X_n, the weight gradient of a matrix product. B (k, T, o), X (k, T, i), G_n (o, i)."""

    def __init__(self, B: Tensor, X: Tensor):
        self.B, self.X = B, X.to(B.dtype)

    def chunk(self, start, stop, total=None):
        B = self.B[:, :, start:stop].transpose(1, 2)
        return torch.bmm(B, self.X) if total is None else torch.baddbmm(total, B, self.X)

    def weighted(self, weights, total=None):
        B = self.B * weights.to(self.B.dtype)[:, None, None]
        product = (B.flatten(0, 1).T @ self.X.flatten(0, 1)).flatten()
        return product if total is None else total.add_(product)

    def gathered(self, gather):
        return Product(gather(self.B), gather(self.X))


class Lookup:
    """G_n = sum over t of B_nt in line ids_nt, the weight gradient of an embedding. ids (k, T), B (k, T, d)."""

    def __init__(self, B: Tensor, ids: Tensor, lines: int):
        self.B, self.ids, self.lines = B, ids, lines

    def chunk(self, start, stop, total=None):
        k, _, d = self.B.shape
        total = self.B.new_zeros(k, stop - start, d) if total is None else total
        lines, order = self._by_line
        first, last = bisect_left(lines, start), bisect_left(lines, stop)
        if first == last:
            return total
        at = order[first:last]
        where = (at // self.ids.shape[1], self.ids.flatten()[at] - start)
        return total.index_put_(where, self.B.flatten(0, 1)[at].to(total.dtype), accumulate=True)

    def weighted(self, weights, total=None):
        B = self.B * weights.to(self.B.dtype)[:, None, None]
        total = B.new_zeros(self.lines * B.shape[-1]) if total is None else total
        total.view(self.lines, -1).index_add_(0, self.ids.flatten(), B.flatten(0, 1).to(total.dtype))
        return total

    @cached_property
    def _by_line(self) -> tuple[list[int], Tensor]:
        """The looked up lines in order, and the positions in ids.flatten() that they have."""
        lines, order = self.ids.flatten().sort()
        return lines.tolist(), order

    def compact(self) -> tuple["Lookup", Tensor]:
        """The same rows without the lines that no sample looks up, and which lines are left."""
        lines_used, ids = self.ids.unique(return_inverse=True)
        return Lookup(self.B, ids, len(lines_used)), lines_used

    def gathered(self, gather):
        return Lookup(gather(self.B), gather(self.ids), self.lines)


class Dense:
    """Rows that do exist in memory: G (k, ...), for parameters that are small beside the activations."""

    def __init__(self, G: Tensor):
        self.G = G

    def chunk(self, start, stop, total=None):
        G = self.G.reshape(len(self.G), -1, math.prod(self.G.shape[2:]))[:, start:stop]
        return G if total is None else total + G

    def weighted(self, weights, total=None):
        flat = self.G.reshape(len(self.G), -1)
        product = weights.to(flat.dtype) @ flat
        return product if total is None else total.add_(product)

    def gathered(self, gather):
        return Dense(gather(self.G))


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
