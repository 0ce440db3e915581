"""Where the samples lie in a tensor, followed through the calls that move them: transpositions,
look-ups, routing.

Nearly always they lie along the leading axis, in k equal blocks, and nothing is noted. Models that
put time first (XLNet, multi-head attention of torch) or sort tokens by expert (mixtures of experts)
are followed as far as their calls are known here; where the trail is lost, the leading axis is
assumed, and the self-check of the first step has the last word.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

MOVES = ("transpose", "swapaxes", "swapdims", "permute", "movedim", "moveaxis", "t", "unsqueeze")
RESHAPES = ("view", "reshape", "flatten", "unflatten", "squeeze", "view_as", "reshape_as")
SPLITS = ("split", "split_with_sizes", "chunk", "tensor_split")
# Some axes are gone afterwards.
REDUCTIONS = (
    "sum", "mean", "prod", "amax", "amin", "max", "min", "logsumexp", "var", "std", "any", "all", "select", "unbind",
)  # fmt: skip
# The first argument decides where the samples of the output lie, whatever the others are.
FIRST = (
    "index_add",
    "index_copy",
    "index_put",
    "scatter",
    "scatter_add",
    "scatter_reduce",
    "masked_scatter",
)


@dataclass(frozen=True, eq=False)
class Layout:
    """The samples lie along `axis`: in k equal blocks, or as `owners` (N,) says, which names the
    sample of each index.

    sole: the one sample that all values belong to (a single image, where a model has a loop over
        them).
    """

    axis: int = 0
    owners: Tensor | None = None
    sole: int | None = None

    def of_all(self, k: int) -> bool:
        """Whether each of the k samples has a share."""
        return self.sole is None and (self.owners is None or len(self.owners.unique()) == k)

    def regular(self, x: Tensor, k: int) -> Tensor:
        """The same values with the samples in k equal blocks along the leading axis, filled up with
        zeros."""
        x = x.movedim(self.axis, 0)
        if self.owners is None and self.sole is None:
            return x
        owners = self.owners_of(len(x), k, x.device)
        order = owners.argsort(stable=True)
        counts = torch.bincount(owners, minlength=k)
        size, first = int(counts.max()), counts.cumsum(0) - counts
        owners = owners[order]
        slots = owners * size + torch.arange(len(order), device=order.device) - first[owners]
        return x.new_zeros(k * size, *x.shape[1:]).index_copy_(0, slots, x[order])

    def owners_of(self, size: int, k: int, device: torch.device) -> Tensor:
        if self.owners is not None:
            return self.owners
        if self.sole is not None:
            return torch.full((size,), self.sole, device=device)
        return torch.arange(size, device=device) // max(1, size // k)


LEADING = Layout()


class Layouts:
    """The layouts of the tensors of one forward pass over k samples; tensors are not kept alive."""

    def __init__(self, k: int):
        self.k, self._known = k, WeakTensorKeyDictionary()
        # by the length of what the samples have shares of different sizes in
        self._shares: dict[int, Layout] = {}

    def of(self, x: Tensor) -> Layout:
        known = self._known.get(x)
        # positions, made from the sizes alone
        if known is None and self._shares and x.ndim and not x.requires_grad:
            known = self._shares.get(len(x))
        return LEADING if known is None else known

    def share(self, x: Tensor, owners: Tensor) -> None:
        """Notes whose the lines of an input are, of which samples have different numbers."""
        self.note(x, Layout(owners=owners))
        if x in self._known:
            self._shares[len(x)] = self._known[x]

    def note(self, x: Tensor, layout: Layout) -> None:
        if (
            layout.axis >= x.ndim
            or layout.owners is not None
            and len(layout.owners) != x.shape[layout.axis]
        ):
            return  # a call has done something else than is known here, and the trail is lost
        if layout.owners is not None and len(layout.owners) % self.k == 0:
            in_order = LEADING.owners_of(len(layout.owners), self.k, layout.owners.device)
            if torch.equal(layout.owners, in_order):
                layout = Layout(layout.axis)
        if layout.axis or layout.owners is not None or layout.sole is not None:
            self._known[x] = layout

    def follow(
        self, func: Callable, args: tuple, kwargs: dict, output, is_sample: Callable[[Tensor], bool]
    ) -> None:
        """Notes where the samples of a call's output lie."""
        outputs = [
            x
            for x in (output if isinstance(output, (list, tuple)) else (output,))
            if isinstance(x, Tensor)
        ]
        sources = [x for x in _tensors((*args, *kwargs.values())) if x.ndim and is_sample(x)]
        name = func.__name__ if func.__name__.endswith("__") else func.__name__.removesuffix("_")
        if not outputs or not sources or outputs[0] is (args[0] if args else None):
            return
        if name in FIRST:
            sources = [x for x in sources if x is args[0]]
        if name in ("cat", "concat") and any(self._whole(x, outputs[0]) for x in sources):
            # What was taken from some samples only, and is put beside all of them, must be the same
            # for all: class tokens.
            sources = [x for x in sources if self.of(x).of_all(self.k)]
        x = next((x for x in sources if x in self._known), sources[0] if sources else None)
        if x is None or not x.ndim:
            return
        if name == "sort" and x.ndim == 1:
            if len(x) % self.k == 0 or x in self._known:
                self.note(
                    outputs[0],
                    Layout(0, self.of(x).owners_of(len(x), self.k, x.device)[outputs[1]]),
                )
            return
        soles = [self.of(x).sole for x in sources]
        for at, out in enumerate(outputs):
            if soles[0] is not None and len({*soles}) == 1:
                layout = self.of(sources[0])
            elif None not in soles and name in ("cat", "concat", "stack"):
                layout = self._joined(name, args, kwargs, soles, out)
            else:
                layout = self._moved(func, name, args, kwargs, x, out, at)
            if layout is not None:
                self.note(out, layout)

    def _whole(self, x: Tensor, out: Tensor) -> bool:
        """Whether x has all samples along its leading axis, and a call leaves them there."""
        return self.of(x) is LEADING and len(x) == len(out) and len(x) % self.k == 0

    def _joined(
        self, name: str, args: tuple, kwargs: dict, soles: list[int], out: Tensor
    ) -> Layout | None:
        """What several tensors of one sample each make beside each other."""
        given, dim = args[0], (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % out.ndim
        if len(given) != len(soles):  # a parameter is among them
            return None
        counts = torch.tensor(
            [1 if name == "stack" else x.shape[dim] for x in given], device=out.device
        )
        return Layout(dim, torch.tensor(soles, device=out.device).repeat_interleave(counts))

    def _taken(self, layout: Layout, x: Tensor, take: Callable[[Tensor], Tensor]) -> Layout:
        """The layout of what is taken of x along its sample axis."""
        # where a look at values need not wait for a GPU
        device = "cpu" if layout.owners is None else x.device
        owners = take(layout.owners_of(x.shape[layout.axis], self.k, device))
        if not owners.ndim or len(owners) and bool((owners == owners[0]).all()):
            return Layout(sole=int(owners.flatten()[0]))
        return Layout(layout.axis, owners.to(x.device))

    def _moved(self, func, name, args, kwargs, x: Tensor, out: Tensor, at: int) -> Layout | None:
        layout = self.of(x)
        if layout.axis >= x.ndim or (layout is LEADING and len(x) % self.k):  # it holds no samples
            return None
        # positions for each sample
        if name == "expand" and layout.axis == 1 and len(x) == 1 and len(out) == self.k:
            return LEADING
        if name in MOVES and x is args[0]:
            probe = torch.empty([axis + 2 for axis in range(x.ndim)], device="meta")
            return Layout(
                list(func(probe, *args[1:], **kwargs).shape).index(layout.axis + 2), layout.owners
            )
        if name in REDUCTIONS and x is args[0] and out.ndim < x.ndim:
            given = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis"))
            given = 0 if given is None and name == "unbind" else given
            if name == "unbind" and given % x.ndim == layout.axis:
                return self._taken(layout, x, lambda owners: owners[at])
            return _reduced(layout, given, x.ndim)
        if func == torch.Tensor.T.__get__:
            return Layout(x.ndim - 1 - layout.axis, layout.owners)
        if name == "einsum":
            return _einsum_layout(args, x, layout)
        if name in RESHAPES and x is args[0]:
            return self._reshaped(layout, x, out)
        if name in ("__getitem__", "index_select") and x is args[0]:
            return self._indexed(
                layout, x, args[1] if name == "__getitem__" else (args[1:], kwargs)
            )
        if name in SPLITS and x is args[0] and out.shape[layout.axis] != x.shape[layout.axis]:
            keywords = {key: value for key, value in kwargs.items() if key != "dim"}
            return self._taken(layout, x, lambda owners: func(owners, *args[1:2], **keywords)[at])
        if name in ("cat", "concat") and layout.axis == 0 and out.shape[0] != x.shape[0]:
            if any(len(y) % self.k and self.of(y).owners is None for y in args[0]):
                return None
            return Layout(
                0, torch.cat([self.of(y).owners_of(len(y), self.k, y.device) for y in args[0]])
            )
        if name == "stack":
            dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % out.ndim
            return Layout(layout.axis + (dim <= layout.axis), layout.owners)
        if (
            name in ("repeat", "tile")
            and layout.axis == 0
            and out.ndim == x.ndim
            and len(out) != len(x)
        ):
            return Layout(0, layout.owners_of(len(x), self.k, x.device).repeat(len(out) // len(x)))
        if out.ndim > layout.axis and out.shape[layout.axis] == x.shape[layout.axis]:
            return layout
        return None

    def _reshaped(self, layout: Layout, x: Tensor, out: Tensor) -> Layout | None:
        before, size = math.prod(x.shape[: layout.axis]), x.shape[layout.axis]
        for axis, length in enumerate(out.shape):
            if math.prod(out.shape[:axis]) != before or not length:
                continue
            if (
                layout.owners is None
                and length % self.k == 0
                and (length % size == 0 or size % length == 0)
            ):
                return Layout(axis)
            if length % size == 0:  # merged with the axes behind it
                owners = layout.owners_of(size, self.k, x.device)
                return Layout(axis, owners.repeat_interleave(length // size))
        # merged with the axes before it ...
        owners = layout.owners_of(size, self.k, x.device).repeat(before)
        if out.ndim and len(out) and len(owners) % len(out) == 0:
            blocks = owners.view(len(out), -1)
            if bool((blocks == blocks[:, :1]).all()):
                return Layout(0, blocks[:, 0])
            if (
                out.ndim > 1
                and blocks.shape[1] == out.shape[1]
                and bool((blocks == blocks[:1]).all())
            ):
                return Layout(1, blocks[0])  # ... or split off from them
        return None

    def _indexed(self, layout: Layout, x: Tensor, index) -> Layout | None:
        # index_select
        if isinstance(index, tuple) and len(index) == 2 and isinstance(index[1], dict):
            given = dict(zip(("dim", "index"), index[0])) | index[1]
            if given["dim"] % x.ndim != layout.axis:
                return layout
            return Layout(
                layout.axis,
                layout.owners_of(x.shape[layout.axis], self.k, x.device)[given["index"]],
            )
        index = index if isinstance(index, tuple) else (index,)
        first = index[0] if index else None
        if isinstance(first, Tensor) and layout.axis == 0 and first.ndim:
            if first.dtype == torch.bool:
                first = first.nonzero()[:, 0]
            if first.ndim != 1 or len(x) % self.k and layout.owners is None:
                return None
            return Layout(0, layout.owners_of(len(x), self.k, x.device)[first])
        axis, left = layout.axis, layout.axis
        for item in index:
            if item is None:
                axis += 1
            elif left == 0:
                size = x.shape[layout.axis]
                divides = layout.owners is not None or size % self.k == 0
                if isinstance(item, int) and divides:
                    return self._taken(layout, x, lambda owners, item=item: owners[item])
                picks = (
                    isinstance(item, Tensor)
                    and item.ndim == 1
                    or isinstance(item, slice)
                    and item != slice(None)
                )
                if picks and divides:
                    return Layout(axis, layout.owners_of(size, self.k, x.device)[item])
                break
            elif not isinstance(item, (int, slice)) or isinstance(item, bool):
                break
            else:
                left, axis = left - 1, axis - isinstance(item, int)
        return Layout(axis, layout.owners)


def _reduced(layout: Layout, given, ndim: int) -> Layout | None:
    """What is left of a layout when some axes are gone."""
    gone = {
        axis % ndim
        for axis in (given if isinstance(given, (tuple, list)) else (given,))
        if axis is not None
    }
    if not gone or layout.axis in gone:
        return None
    return Layout(layout.axis - sum(axis < layout.axis for axis in gone), layout.owners)


def _einsum_layout(args: tuple, x: Tensor, layout: Layout) -> Layout | None:
    operands = args[1] if isinstance(args[1], (list, tuple)) else args[1:]
    if not isinstance(args[0], str) or "." in args[0] or "->" not in args[0]:
        return None
    inputs, output = args[0].replace(" ", "").split("->")
    for letters, operand in zip(inputs.split(","), operands):
        if operand is x and letters[layout.axis] in output:
            return Layout(output.index(letters[layout.axis]), layout.owners)
    return None


def _tensors(values) -> Iterator[Tensor]:
    for value in values:
        for tensor in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(tensor, Tensor):
                yield tensor
