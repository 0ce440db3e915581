"""The k per-sample gradients of one parameter from one use, in the form that its use leaves them
in."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import grad

CONVOLUTIONS = {1: grad.conv1d_weight, 2: grad.conv2d_weight, 3: grad.conv3d_weight}


class Rows(Protocol):
    """The k per-sample gradients of one parameter from one use, as rows of A that need not exist in
    memory.

    A parameter of shape (m, ...) is seen as m lines; any few of them can be had at a time.

    k: number of samples.
    dtype, device: of the values.
    held: how many values it holds in memory.
    size: how many values one G_n has.
    """

    k: int
    size: int
    held: int
    dtype: torch.dtype
    device: torch.device

    def write(self, out: Tensor, start: int, add: bool) -> None:
        """Writes the lines from `start` on of all G_n to out (k, lines, numel / m), or adds them to
        what is there."""

    def weighted(self, weights: Tensor, total: Tensor | None = None) -> Tensor:
        """sum_n w_n G_n, flat, added to `total` (which is overwritten) where that is given; weights
        (k,)."""

    def gathered(self, gather: Callable[[Tensor], Tensor]) -> "Rows":
        """The rows of all processes; `gather` concatenates tensors (k, T, ...) or (k, ...) along
        the samples.

        `Convolved` and `Scaled` are not gathered, nor cut.
        """

    def cut(self, lines: slice) -> "Rows":
        """The rows of some (at least one) of the parameter's lines."""

    def placed(self, n: int, k: int) -> "Rows":
        """The row of one sample as the n-th of k, of which the others are zero."""


class Product:
    """G_n = B_n^T X_n, the weight gradient of a matrix product. B (k, T, o), X (k, T, i), G_n (o,
    i)."""

    def __init__(self, B: Tensor, X: Tensor):
        if B.shape[:2] != X.shape[:2]:
            raise ValueError(
                f"output gradients {tuple(B.shape)} and inputs {tuple(X.shape)} are not of the "
                "same positions"
            )
        self.B, self.X = B, X.to(B.dtype)
        self.dtype, self.device, (self.k, self.positions, self.lines) = B.dtype, B.device, B.shape
        self.held, self.size = B.numel() + X.numel(), self.lines * X.shape[-1]

    def write(self, out, start, add):
        B = self.B[:, :, start : start + out.shape[1]].transpose(1, 2)
        if out.dtype == B.dtype:
            # with beta = 0, what is there does not count
            torch.baddbmm(out, B, self.X, beta=int(add), out=out)
        else:
            _put(out, torch.bmm(B, self.X), add)

    def weighted(self, weights, total=None):
        B, X = _times(self.B, self.X, weights)
        product = (B.flatten(0, 1).T @ X.flatten(0, 1)).flatten()
        return product if total is None else total.add_(product)

    def to(self, dtype: torch.dtype) -> "Product":
        return Product(self.B.to(dtype), self.X)

    def gathered(self, gather):
        return Product(gather(self.B), gather(self.X))

    def cut(self, lines):
        return Product(self.B[:, :, lines], self.X)

    def placed(self, n, k):
        return Product(_placed(self.B, n, k), _placed(self.X, n, k))


class Convolved:
    """G_n = the weight gradient of a convolution from the inputs X_n to the output gradients B_n of
    a sample.

    What the kernel meets at its places is never written out, which with overlapping places would be
    many times X. X (k, s, i, *size), B (k, s, o, *places), G_n (o, i, *kernel). Of several groups,
    which have inputs of their own and so G_n (o, i / groups, *kernel), all lines must be written at
    once.
    """

    def __init__(self, B: Tensor, X: Tensor, kernel: Sequence[int], groups: int = 1, **settings):
        """settings: stride, padding and dilation, as numbers."""
        self.B, self.X, self.shape, self.settings = (
            B,
            X.to(B.dtype),
            (X.shape[2] // groups, *kernel),
            settings,
        )
        self.dtype, self.device, self.k, self.lines, self.groups = (
            B.dtype,
            B.device,
            len(B),
            B.shape[2],
            groups,
        )
        self.held, self.size = B.numel() + X.numel(), self.lines * math.prod(self.shape)

    def write(self, out, start, add):
        B = self.B[:, :, start : start + out.shape[1]]
        for total, B_n, X_n in zip(out, B, self.X):
            _put(total, self._gradient(B_n, X_n), add)

    def weighted(self, weights, total=None):
        B, X = _times(self.B, self.X, weights)
        product = self._gradient(B.flatten(0, 1), X.flatten(0, 1)).flatten()
        return product if total is None else total.add_(product)

    def _gradient(self, B: Tensor, X: Tensor) -> Tensor:
        """Of a batch: X (N, i, *size), B (N, o, *places) -> (o, i / groups * kernel)."""
        of_weight = CONVOLUTIONS[len(self.shape) - 1]
        return of_weight(
            X, (B.shape[1], *self.shape), B, groups=self.groups, **self.settings
        ).flatten(1)

    def placed(self, n, k):
        return Convolved(
            _placed(self.B, n, k),
            _placed(self.X, n, k),
            self.shape[1:],
            self.groups,
            **self.settings,
        )


class Lookup:
    """G_n = sum over t of B_nt in line ids_nt, the weight gradient of an embedding. ids (k, T), B
    (k, T, d)."""

    def __init__(self, B: Tensor, ids: Tensor, lines: int):
        self.B, self.ids, self.lines = B, ids, lines
        self.dtype, self.device, (self.k, self.positions) = B.dtype, B.device, ids.shape
        self.held, self.size = B.numel() + ids.numel(), lines * B.shape[-1]

    def write(self, out, start, add):
        if not add:
            out.zero_()
        ids = self.ids - start
        inside = (ids >= 0) & (ids < out.shape[1])
        samples, places = inside.nonzero(as_tuple=True)
        values = self.B[samples, places].to(out.dtype)
        out.index_put_((samples, ids[samples, places]), values, accumulate=True)

    def weighted(self, weights, total=None):
        B = self.B * weights.to(self.B.dtype)[:, None, None]
        total = B.new_zeros(self.lines * B.shape[-1]) if total is None else total
        total.view(self.lines, -1).index_add_(
            0, self.ids.flatten(), B.flatten(0, 1).to(total.dtype)
        )
        return total

    def to(self, dtype: torch.dtype) -> "Lookup":
        return Lookup(self.B.to(dtype), self.ids, self.lines)

    def compact(self) -> tuple["Lookup", Tensor]:
        """The same rows without the lines that no sample looks up, and which lines are left."""
        lines_used, ids = self.ids.unique(return_inverse=True)
        return Lookup(self.B, ids, len(lines_used)), lines_used

    def gathered(self, gather):
        return Lookup(gather(self.B), gather(self.ids), self.lines)

    def cut(self, lines):
        ids, count = self.ids - lines.start, lines.stop - lines.start
        inside = (ids >= 0) & (ids < count)
        return Lookup(self.B * inside[:, :, None], ids.clamp(0, count - 1), count)

    def placed(self, n, k):
        return Lookup(_placed(self.B, n, k), _placed(self.ids, n, k), self.lines)


class Dense:
    """Rows that do exist in memory: G (k, ...), for parameters that are small beside the
    activations."""

    def __init__(self, G: Tensor):
        self.G, self.dtype, self.device, self.k, self.held = G, G.dtype, G.device, len(G), G.numel()
        self.size = G.numel() // self.k

    def write(self, out, start, add):
        _put(out, self.G.reshape(self.k, -1, out.shape[2])[:, start : start + out.shape[1]], add)

    def weighted(self, weights, total=None):
        flat = self.G.reshape(len(self.G), -1)
        product = weights.to(flat.dtype) @ flat
        return product if total is None else total.add_(product)

    def gathered(self, gather):
        return Dense(gather(self.G))

    def cut(self, lines):
        return Dense(self.G[:, lines])

    def placed(self, n, k):
        return Dense(_placed(self.G, n, k))


class Scaled:
    """G_n with every value times a factor of its own, to be measured only. scale (o, i)."""

    def __init__(self, uses: Sequence[Rows], scale: Tensor):
        self.uses, self.scale, self.k, self.device = uses, scale, uses[0].k, uses[0].device
        self.dtype = torch.promote_types(value_type(uses), scale.dtype)
        self.size = scale.numel()
        self.held = scale.numel() + sum(use.held for use in uses)

    def write(self, out, start, add):
        values = torch.empty_like(out)
        write_all(self.uses, values, start)
        _put(out, values.mul_(self.scale[start : start + out.shape[1]]), add)


def written_out(uses: Sequence[Rows], lines: int, width: int) -> Tensor:
    """The sum over uses of their G (k, lines, width)."""
    G = torch.empty(uses[0].k, lines, width, dtype=value_type(uses), device=uses[0].device)
    write_all(uses, G, 0)
    return G


def value_type(uses: Sequence[Rows]) -> torch.dtype:
    return functools.reduce(torch.promote_types, (use.dtype for use in uses))


def write_all(uses: Sequence[Rows], out: Tensor, start: int) -> None:
    """Writes the lines from `start` on of the sum over uses of their G to out (k, lines, width)."""
    for use in uses:
        use.write(out, start, add=use is not uses[0])


def _placed(x: Tensor, n: int, k: int) -> Tensor:
    return torch.cat([x.new_zeros(n, *x.shape[1:]), x, x.new_zeros(k - 1 - n, *x.shape[1:])])


def _times(B: Tensor, X: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """B (k, ...) and X (k, ...), of which the smaller one is multiplied by weights (k,)."""
    weights = weights.to(B.dtype).reshape(-1, *[1] * (B.ndim - 1))
    return (B * weights, X) if B.numel() < X.numel() else (B, X * weights)


def _put(out: Tensor, values: Tensor, add: bool) -> None:
    out.add_(values) if add else out.copy_(values)
