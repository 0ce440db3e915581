"""Where the samples lie in the output of a call: one rule for each kind of call that moves them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .layout import LEADING, Layout

MOVES = ("transpose", "swapaxes", "swapdims", "permute", "movedim", "moveaxis", "t", "unsqueeze")
RESHAPES = ("view", "reshape", "flatten", "unflatten", "squeeze", "view_as", "reshape_as")
SPLITS = ("split", "split_with_sizes", "chunk", "tensor_split")
JOINS = ("cat", "concat")
# These remove axes.
REDUCTIONS = frozenset(
    "sum mean prod amax amin max min logsumexp var std any all select unbind".split()
)


@dataclass
class Movement:
    """A call that may move samples.

    name: of the function, without the underscore of in-place functions.
    k: number of samples in the batch.
    layout_of: the known layout of a tensor.
    """

    func: Callable
    name: str
    args: tuple
    kwargs: dict
    k: int
    layout_of: Callable[[Tensor], Layout]

    def layout(self, x: Tensor, out: Tensor, number: int) -> Layout | None:
        """The layout of an output whose samples come from x; None if it is unknown.

        Args:
            number: the index of `out` among the outputs of the call.
        """
        layout, name, args = self.layout_of(x), self.name, self.args
        # The shape shows that x holds no samples.
        if layout.axis >= x.ndim or (layout is LEADING and len(x) % self.k):
            return None
        # A position table is repeated for each sample.
        if name == "expand" and layout.axis == 1 and len(x) == 1 and len(out) == self.k:
            return LEADING
        # The stubs know the values of `T` and not the descriptor.
        if self.func == torch.Tensor.T.__get__:  # type: ignore[attr-defined]
            return Layout(x.ndim - 1 - layout.axis, layout.owners)
        if name == "einsum":
            return _einsum_layout(args, x, layout)
        if name in JOINS and layout.axis == 0 and out.shape[0] != x.shape[0]:
            return self._joined_along_samples()
        if name == "stack":
            dim = self._dim(out)
            return Layout(layout.axis + (dim <= layout.axis), layout.owners)
        if args and x is args[0]:
            if name in MOVES:
                return self._moved(layout, x)
            if name in REDUCTIONS and out.ndim < x.ndim:
                return self._reduced(layout, x, number)
            if name in RESHAPES:
                return self._reshaped(layout, x, out)
            if name in ("__getitem__", "index_select"):
                return self._indexed(layout, x)
            if name in SPLITS and out.shape[layout.axis] != x.shape[layout.axis]:
                return self._split(layout, x, number)
        repeats = name in ("repeat", "tile") and layout.axis == 0 and out.ndim == x.ndim
        if repeats and len(out) != len(x):
            owners = layout.owners_of(len(x), self.k, x.device)
            return Layout(0, owners.repeat(len(out) // len(x)))
        if out.ndim > layout.axis and out.shape[layout.axis] == x.shape[layout.axis]:
            return layout
        return None

    def joined_single_samples(self, samples: list[int], out: Tensor) -> Layout | None:
        """The layout of several tensors of one sample each, concatenated or stacked."""
        tensors, dim = self.args[0], self._dim(out)
        # A parameter is among the tensors.
        if len(tensors) != len(samples):
            return None
        sizes = [1 if self.name == "stack" else x.shape[dim] for x in tensors]
        counts = torch.tensor(sizes, device=out.device)
        return Layout(dim, torch.tensor(samples, device=out.device).repeat_interleave(counts))

    def selected(self, layout: Layout, x: Tensor, select: Callable[[Tensor], Tensor]) -> Layout:
        """The layout of a selection of x along its sample axis.

        Args:
            select: makes the same selection from the owners.
        """
        # On the CPU, where possible: reading values there need not wait for a GPU.
        device = "cpu" if layout.owners is None else x.device
        owners = select(layout.owners_of(x.shape[layout.axis], self.k, device))
        if not owners.ndim or len(owners) and bool((owners == owners[0]).all()):
            return Layout(only_sample=int(owners.flatten()[0]))
        return Layout(layout.axis, owners.to(x.device))

    def _dim(self, out: Tensor) -> int:
        """The argument `dim` of cat and stack."""
        return (self.args[1] if len(self.args) > 1 else self.kwargs.get("dim", 0)) % out.ndim

    def _joined_along_samples(self) -> Layout | None:
        tensors, k = self.args[0], self.k
        if any(len(y) % k and self.layout_of(y).owners is None for y in tensors):
            return None
        owners = [self.layout_of(y).owners_of(len(y), k, y.device) for y in tensors]
        return Layout(0, torch.cat(owners))

    def _moved(self, layout: Layout, x: Tensor) -> Layout:
        """Axes are permuted: the sizes of a probe tell them apart."""
        probe = torch.empty([axis + 2 for axis in range(x.ndim)], device="meta")
        shape = list(self.func(probe, *self.args[1:], **self.kwargs).shape)
        return Layout(shape.index(layout.axis + 2), layout.owners)

    def _reduced(self, layout: Layout, x: Tensor, number: int) -> Layout | None:
        """Some axes are removed."""
        dims = self.kwargs.get("dim", self.kwargs.get("axis"))
        dims = self.args[1] if len(self.args) > 1 else dims
        dims = 0 if dims is None and self.name == "unbind" else dims
        if self.name == "unbind" and dims % x.ndim == layout.axis:
            return self.selected(layout, x, lambda owners: owners[number])
        dims = dims if isinstance(dims, (tuple, list)) else (dims,)
        removed = {axis % x.ndim for axis in dims if axis is not None}
        if not removed or layout.axis in removed:
            return None
        return Layout(layout.axis - sum(axis < layout.axis for axis in removed), layout.owners)

    def _reshaped(self, layout: Layout, x: Tensor, out: Tensor) -> Layout | None:
        k, before, size = self.k, math.prod(x.shape[: layout.axis]), x.shape[layout.axis]
        for axis, length in enumerate(out.shape):
            if math.prod(out.shape[:axis]) != before or not length:
                continue
            divides = length % size == 0 or size % length == 0
            if layout.owners is None and length % k == 0 and divides:
                return Layout(axis)
            # Merged with the axes after it.
            if length % size == 0:
                owners = layout.owners_of(size, k, x.device)
                return Layout(axis, owners.repeat_interleave(length // size))
        return _merged_with_axes_before(layout.owners_of(size, k, x.device).repeat(before), out)

    def _split(self, layout: Layout, x: Tensor, number: int) -> Layout:
        keywords = {key: value for key, value in self.kwargs.items() if key != "dim"}
        return self.selected(
            layout, x, lambda owners: self.func(owners, *self.args[1:2], **keywords)[number]
        )

    def _indexed(self, layout: Layout, x: Tensor) -> Layout | None:
        if self.name == "index_select":
            arguments = dict(zip(("dim", "index"), self.args[1:])) | self.kwargs
            if arguments["dim"] % x.ndim != layout.axis:
                return layout
            owners = layout.owners_of(x.shape[layout.axis], self.k, x.device)
            return Layout(layout.axis, owners[arguments["index"]])
        index = self.args[1] if isinstance(self.args[1], tuple) else (self.args[1],)
        first = index[0] if index else None
        if isinstance(first, Tensor) and layout.axis == 0 and first.ndim:
            if first.dtype == torch.bool:
                first = first.nonzero()[:, 0]
            if first.ndim != 1 or len(x) % self.k and layout.owners is None:
                return None
            return Layout(0, layout.owners_of(len(x), self.k, x.device)[first])
        return self._indexed_by_items(layout, x, index)

    def _indexed_by_items(self, layout: Layout, x: Tensor, index: tuple) -> Layout:
        """x[index], followed item by item up to the sample axis."""
        axis, left = layout.axis, layout.axis
        for item in index:
            if item is None:
                axis += 1
            elif left == 0:
                return self._indexed_along_samples(layout, x, item, axis)
            elif not isinstance(item, (int, slice)) or isinstance(item, bool):
                break
            else:
                left, axis = left - 1, axis - isinstance(item, int)
        return Layout(axis, layout.owners)

    def _indexed_along_samples(self, layout: Layout, x: Tensor, item: Any, axis: int) -> Layout:
        """item: the index along the sample axis, which is `axis` in the output."""
        size = x.shape[layout.axis]
        divides = layout.owners is not None or size % self.k == 0
        if isinstance(item, int) and divides:
            return self.selected(layout, x, lambda owners: owners[item])
        vector = isinstance(item, Tensor) and item.ndim == 1
        part = isinstance(item, slice) and item != slice(None)
        if (vector or part) and divides:
            return Layout(axis, layout.owners_of(size, self.k, x.device)[item])
        return Layout(axis, layout.owners)


def _merged_with_axes_before(owners: Tensor, out: Tensor) -> Layout | None:
    """The layout of a reshaped tensor whose sample axis was merged with, or split from, others.

    Args:
        owners: the sample of each index along all axes up to the sample axis, (N,).
    """
    if not (out.ndim and len(out) and len(owners) % len(out) == 0):
        return None
    blocks = owners.view(len(out), -1)  # (len(out), N / len(out))
    if bool((blocks == blocks[:, :1]).all()):
        return Layout(0, blocks[:, 0])
    split = out.ndim > 1 and blocks.shape[1] == out.shape[1]
    if split and bool((blocks == blocks[:1]).all()):
        return Layout(1, blocks[0])
    return None


def _einsum_layout(args: tuple, x: Tensor, layout: Layout) -> Layout | None:
    operands = args[1] if isinstance(args[1], (list, tuple)) else args[1:]
    if not isinstance(args[0], str) or "." in args[0] or "->" not in args[0]:
        return None
    inputs, output = args[0].replace(" ", "").split("->")
    for letters, operand in zip(inputs.split(","), operands):
        if operand is x and letters[layout.axis] in output:
            return Layout(output.index(letters[layout.axis]), layout.owners)
    return None
