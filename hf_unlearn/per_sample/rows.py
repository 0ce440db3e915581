"""The k per-sample gradients of one parameter from one use, in the form that the use gives them."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import grad

CONVOLUTIONS = {1: grad.conv1d_weight, 2: grad.conv2d_weight, 3: grad.conv3d_weight}


class Rows(Protocol):
    """The k per-sample gradients G_n of one parameter from one use: rows of A.

    They need not exist in memory. A parameter of shape (m, ...) is treated as m lines, and any
    range of lines can be computed by itself.

    k: number of samples.
    dtype, device: of the values.
    stored: how many values are in memory.
    size: how many values one G_n has.
    """

    k: int
    size: int
    stored: int
    dtype: torch.dtype
    device: torch.device

    def write(self, out: Tensor, start: int, add: bool) -> None:
        """Writes lines of all G_n to out (k, lines, numel / m), or adds them to it.

        Args:
            start: the first of these lines.
        """

    def weighted(self, weights: Tensor, total: Tensor | None = None) -> Tensor:
        """sum_n w_n G_n, flat, added to `total` (which is overwritten) if given; weights (k,)."""

    def among_zeros(self, n: int, k: int) -> "Rows":
        """k rows, of which the n-th is the only row here and the others are zero."""


class GatherableRows(Rows, Protocol):
    """Rows that processes can send to each other in the form in which their use left them."""

    def gathered(self, gather: Callable[[Tensor], Tensor]) -> "GatherableRows":
        """The rows of all processes.

        Args:
            gather: concatenates tensors (k, T, ...) or (k, ...) along the samples.
        """

    def cut(self, lines: slice) -> "GatherableRows":
        """The rows restricted to some (at least one) of the parameter's lines."""


class Product:
    """G_n = B_n^T X_n, the weight gradient of a matrix product.

    B (k, T, o), X (k, T, i), G_n (o, i).
    """

    def __init__(self, B: Tensor, X: Tensor):
        if B.shape[:2] != X.shape[:2]:
            raise ValueError(
                f"output gradients {tuple(B.shape)} and inputs {tuple(X.shape)} do not have the "
                "same samples and positions"
            )
        self.B, self.X = B, X.to(B.dtype)
        self.dtype, self.device, (self.k, self.positions, self.lines) = B.dtype, B.device, B.shape
        self.stored, self.size = B.numel() + X.numel(), self.lines * X.shape[-1]

    def write(self, out: Tensor, start: int, add: bool) -> None:
        B = self.B[:, :, start : start + out.shape[1]].transpose(1, 2)  # (k, lines, T)
        if out.dtype == B.dtype:
            # With beta = 0, the values in `out` are ignored.
            torch.baddbmm(out, B, self.X, beta=int(add), out=out)
        else:
            _put(out, torch.bmm(B, self.X), add)

    def weighted(self, weights: Tensor, total: Tensor | None = None) -> Tensor:
        B, X = _times(self.B, self.X, weights)
        # (o, k T) @ (k T, i)
        product = (B.flatten(0, 1).T @ X.flatten(0, 1)).flatten()  # (o i,)
        return product if total is None else total.add_(product)

    def to(self, dtype: torch.dtype) -> "Product":
        return Product(self.B.to(dtype), self.X)

    def gathered(self, gather: Callable[[Tensor], Tensor]) -> "Product":
        return Product(gather(self.B), gather(self.X))

    def cut(self, lines: slice) -> "Product":
        return Product(self.B[:, :, lines], self.X)

    def among_zeros(self, n: int, k: int) -> "Product":
        return Product(_among_zeros(self.B, n, k), _among_zeros(self.X, n, k))


class Convolved:
    """G_n is the weight gradient of a convolution from inputs X_n and output gradients B_n.

    X (k, s, i, *size), B (k, s, o, *places), G_n (o, i, *kernel), with s images per sample. The
    patches that the kernel sees are never written out: overlapping patches would be many times the
    size of X. With several groups, each has inputs of its own, G_n is (o, i / groups, *kernel), and
    all lines must be written at once.
    """

    def __init__(
        self,
        B: Tensor,
        X: Tensor,
        kernel: Sequence[int],
        groups: int = 1,
        **settings: Sequence[int],
    ):
        """settings: stride, padding and dilation, as numbers."""
        self.B, self.X, self.groups, self.settings = B, X.to(B.dtype), groups, settings
        self.shape = (X.shape[2] // groups, *kernel)
        self.dtype, self.device, self.k, self.lines = B.dtype, B.device, len(B), B.shape[2]
        self.stored, self.size = B.numel() + X.numel(), self.lines * math.prod(self.shape)

    def write(self, out: Tensor, start: int, add: bool) -> None:
        B = self.B[:, :, start : start + out.shape[1]]  # (k, s, lines, *places)
        for out_n, B_n, X_n in zip(out, B, self.X):
            _put(out_n, self._gradient(B_n, X_n), add)

    def weighted(self, weights: Tensor, total: Tensor | None = None) -> Tensor:
        B, X = _times(self.B, self.X, weights)
        product = self._gradient(B.flatten(0, 1), X.flatten(0, 1)).flatten()  # (numel,)
        return product if total is None else total.add_(product)

    def _gradient(self, B: Tensor, X: Tensor) -> Tensor:
        """X (N, i, *size), B (N, o, *places) -> weight gradient (o, i / groups * kernel)."""
        weight_gradient = CONVOLUTIONS[len(self.shape) - 1]
        shape = (B.shape[1], *self.shape)
        return weight_gradient(X, shape, B, groups=self.groups, **self.settings).flatten(1)

    def among_zeros(self, n: int, k: int) -> "Convolved":
        B, X = _among_zeros(self.B, n, k), _among_zeros(self.X, n, k)
        return Convolved(B, X, self.shape[1:], self.groups, **self.settings)


class Patches(Product):
    """The rows of a convolution as products of output gradients and of the patches that the kernel
    sees. They are written out when they are first needed, and the weighted sum needs none.

    B (k, T, o), X (k, T, i * kernel), G_n (o, i, *kernel), with T places in all images of a sample.

    Args:
        convolution: the same rows.
        patches: gives X.
    """

    def __init__(self, convolution: Convolved, patches: Callable[[], Tensor]):
        self.convolution, self._patches = convolution, patches
        self.B = convolution.B.flatten(3).mT.flatten(1, 2)
        self.dtype, self.device, (self.k, self.positions, self.lines) = (
            convolution.dtype,
            convolution.device,
            self.B.shape,
        )
        self.size = convolution.size
        self.stored = self.B.numel() + self.k * self.positions * (self.size // self.lines)

    # An attribute of Product; mypy takes a cached property for one that cannot be written to.
    @functools.cached_property
    def X(self) -> Tensor:  # type: ignore[override]
        return self._patches().to(self.dtype)

    def weighted(self, weights: Tensor, total: Tensor | None = None) -> Tensor:
        # The call that gradient descent makes, too.
        return self.convolution.weighted(weights, total)


class Lookup:
    """G_n = sum_t B_nt in line ids_nt, the weight gradient of an embedding.

    ids (k, T), B (k, T, d), G_n (lines, d).
    """

    def __init__(self, B: Tensor, ids: Tensor, lines: int):
        self.B, self.ids, self.lines = B, ids, lines
        self.dtype, self.device, (self.k, self.positions) = B.dtype, B.device, ids.shape
        self.stored, self.size = B.numel() + ids.numel(), lines * B.shape[-1]

    def write(self, out: Tensor, start: int, add: bool) -> None:
        if not add:
            out.zero_()
        ids = self.ids - start
        inside = (ids >= 0) & (ids < out.shape[1])
        samples, positions = inside.nonzero(as_tuple=True)
        values = self.B[samples, positions].to(out.dtype)  # (number of look-ups, d)
        out.index_put_((samples, ids[samples, positions]), values, accumulate=True)

    def weighted(self, weights: Tensor, total: Tensor | None = None) -> Tensor:
        B = self.B * weights.to(self.B.dtype)[:, None, None]
        total = B.new_zeros(self.lines * B.shape[-1]) if total is None else total
        # (lines, d), (k T,), (k T, d)
        table, ids, values = total.view(self.lines, -1), self.ids.flatten(), B.flatten(0, 1)
        table.index_add_(0, ids, values.to(total.dtype))
        return total

    def to(self, dtype: torch.dtype) -> "Lookup":
        return Lookup(self.B.to(dtype), self.ids, self.lines)

    def compact(self) -> tuple["Lookup", Tensor]:
        """The same rows without the lines that no sample looks up, and the lines that remain."""
        lines_used, ids = self.ids.unique(return_inverse=True)
        return Lookup(self.B, ids, len(lines_used)), lines_used

    def gathered(self, gather: Callable[[Tensor], Tensor]) -> "Lookup":
        return Lookup(gather(self.B), gather(self.ids), self.lines)

    def cut(self, lines: slice) -> "Lookup":
        ids, count = self.ids - lines.start, lines.stop - lines.start
        inside = (ids >= 0) & (ids < count)
        return Lookup(self.B * inside[:, :, None], ids.clamp(0, count - 1), count)

    def among_zeros(self, n: int, k: int) -> "Lookup":
        return Lookup(_among_zeros(self.B, n, k), _among_zeros(self.ids, n, k), self.lines)


class Dense:
    """Rows in memory: G (k, ...), for parameters that are small compared with the activations."""

    def __init__(self, G: Tensor):
        self.G, self.dtype, self.device, self.k = G, G.dtype, G.device, len(G)
        self.stored, self.size = G.numel(), G.numel() // self.k

    def write(self, out: Tensor, start: int, add: bool) -> None:
        G = self.G.reshape(self.k, -1, out.shape[2])  # (k, all lines, width)
        _put(out, G[:, start : start + out.shape[1]], add)

    def weighted(self, weights: Tensor, total: Tensor | None = None) -> Tensor:
        G = self.G.reshape(len(self.G), -1)  # (k, numel)
        product = weights.to(G.dtype) @ G
        return product if total is None else total.add_(product)

    def gathered(self, gather: Callable[[Tensor], Tensor]) -> "Dense":
        return Dense(gather(self.G))

    def cut(self, lines: slice) -> "Dense":
        return Dense(self.G[:, lines])

    def among_zeros(self, n: int, k: int) -> "Dense":
        return Dense(_among_zeros(self.G, n, k))


class Scaled:
    """G_n times a factor for each value. scale (o, i)."""

    def __init__(self, uses: Sequence[Rows], scale: Tensor):
        self.uses, self.scale, self.k, self.device = uses, scale, uses[0].k, uses[0].device
        self.dtype = torch.promote_types(value_type(uses), scale.dtype)
        self.size = scale.numel()
        self.stored = scale.numel() + sum(use.stored for use in uses)

    def write(self, out: Tensor, start: int, add: bool) -> None:
        values = torch.empty_like(out)
        write_all(self.uses, values, start)
        _put(out, values.mul_(self.scale[start : start + out.shape[1]]), add)

    def weighted(self, weights: Tensor, total: Tensor | None = None) -> Tensor:
        return Dense(written_out([self], *self.scale.shape)).weighted(weights, total)

    def among_zeros(self, n: int, k: int) -> "Scaled":
        return Scaled([use.among_zeros(n, k) for use in self.uses], self.scale)


def written_out(uses: Sequence[Rows], lines: int, width: int) -> Tensor:
    """G (k, lines, width), summed over uses."""
    G = torch.empty(uses[0].k, lines, width, dtype=value_type(uses), device=uses[0].device)
    write_all(uses, G, 0)
    return G


def value_type(uses: Sequence[Rows]) -> torch.dtype:
    """The dtype that holds the values of all uses."""
    return functools.reduce(torch.promote_types, (use.dtype for use in uses))


def write_all(uses: Sequence[Rows], out: Tensor, start: int) -> None:
    """Writes G, summed over uses, to out (k, lines, width), from line `start` on."""
    for use in uses:
        use.write(out, start, add=use is not uses[0])


def _among_zeros(x: Tensor, n: int, k: int) -> Tensor:
    """x (1, ...) as entry n of a tensor (k, ...) of zeros."""
    return torch.cat([x.new_zeros(n, *x.shape[1:]), x, x.new_zeros(k - 1 - n, *x.shape[1:])])


def _times(B: Tensor, X: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """B (k, ...) and X (k, ...), the smaller one multiplied by weights (k,)."""
    weights = weights.to(B.dtype).reshape(-1, *[1] * (B.ndim - 1))  # (k, 1, ..., 1)
    return (B * weights, X) if B.numel() < X.numel() else (B, X * weights)


def _put(out: Tensor, values: Tensor, add: bool) -> None:
    out.add_(values) if add else out.copy_(values)
