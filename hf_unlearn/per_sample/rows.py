"""The k per-sample gradients of one parameter from one use, in the form that its use leaves them in."""

import math
from bisect import bisect_left
from collections.abc import Callable
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor


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
