"""Follows where the samples lie in the tensors of one pass, through the calls that move them.

Samples almost always lie along the leading axis in k equal blocks; then nothing is stored. Models
that put time first (XLNet, torch's multi-head attention) or sort tokens by expert (mixtures of
experts) are followed as far as `layout_rules.py` knows their calls. Otherwise the leading axis is
assumed, and the check before the first step finds out if that is wrong.
"""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from .layout import LEADING, Layout
from .layout_rules import JOINS, Movement

# The first argument alone decides where the samples of the output lie.
FIRST_DECIDES = (
    "index_add",
    "index_copy",
    "index_put",
    "scatter",
    "scatter_add",
    "scatter_reduce",
    "masked_scatter",
)


class LayoutTracker:
    """The layouts of the tensors of one forward pass over k samples.

    It does not keep the tensors alive.
    """

    def __init__(self, k: int):
        self.k, self._known = k, WeakTensorKeyDictionary()
        # Layouts of inputs in which samples have parts of different sizes, by their length.
        self._shares: dict[int, Layout] = {}

    def of(self, x: Tensor) -> Layout:
        """The layout of a tensor, `LEADING` if nothing else is known."""
        layout = self._known.get(x)
        # Positions are computed from the sizes of an input alone.
        if layout is None and self._shares and x.ndim and not x.requires_grad:
            layout = self._shares.get(len(x))
        return LEADING if layout is None else layout

    def share(self, x: Tensor, owners: Tensor) -> None:
        """Notes the sample of each line of an input in which samples have parts of different sizes.

        Args:
            owners: (len(x),).
        """
        self.note(x, Layout(owners=owners))
        if x in self._known:
            self._shares[len(x)] = self._known[x]

    def note(self, x: Tensor, layout: Layout) -> None:
        """Notes the layout of a tensor, unless it cannot be right."""
        owners = layout.owners
        # The call did something other than expected, so the layout is unknown.
        if layout.axis >= x.ndim or owners is not None and len(owners) != x.shape[layout.axis]:
            return
        if owners is not None and len(owners) % self.k == 0:
            in_order = LEADING.owners_of(len(owners), self.k, owners.device)
            if torch.equal(owners, in_order):
                layout = Layout(layout.axis)
        if layout.axis or layout.owners is not None or layout.only_sample is not None:
            self._known[x] = layout

    def follow(
        self,
        func: Callable,
        args: tuple,
        kwargs: dict,
        output: object,
        is_sample: Callable[[Tensor], bool],
    ) -> None:
        """Notes where the samples lie in the output of a call.

        Args:
            is_sample: whether a tensor holds samples.
        """
        outputs = list(_tensors((output,)))
        sources = [x for x in _tensors((*args, *kwargs.values())) if x.ndim and is_sample(x)]
        name = func.__name__ if func.__name__.endswith("__") else func.__name__.removesuffix("_")
        if not outputs or not sources or outputs[0] is (args[0] if args else None):
            return
        sources = self._deciding(name, args, sources, outputs[0])
        x = next((x for x in sources if x in self._known), sources[0] if sources else None)
        if x is None or not x.ndim:
            return
        if name == "sort" and x.ndim == 1:
            if len(x) % self.k == 0 or x in self._known:
                owners = self.of(x).owners_of(len(x), self.k, x.device)
                self.note(outputs[0], Layout(0, owners[outputs[1]]))
            return
        movement = Movement(func, name, args, kwargs, self.k, self.of)
        samples = [self.of(x).only_sample for x in sources]
        for number, out in enumerate(outputs):
            if samples[0] is not None and len({*samples}) == 1:
                layout = self.of(sources[0])
            elif None not in samples and name in (*JOINS, "stack"):
                layout = movement.joined_single_samples(samples, out)
            else:
                layout = movement.layout(x, out, number)
            if layout is not None:
                self.note(out, layout)

    def _deciding(self, name: str, args: tuple, sources: list[Tensor], out: Tensor) -> list[Tensor]:
        """The arguments that decide where the samples of the output lie."""
        if name in FIRST_DECIDES:
            return [x for x in sources if x is args[0]]
        if name in JOINS and any(self._stays(x, out) for x in sources):
            # A selection from some samples that is concatenated with all of them must be the same
            # for all: class tokens.
            return [x for x in sources if self.of(x).has_all(self.k)]
        return sources

    def _stays(self, x: Tensor, out: Tensor) -> bool:
        """Whether x has all samples along its leading axis, and the call leaves them there."""
        return self.of(x) is LEADING and len(x) == len(out) and len(x) % self.k == 0


def _tensors(values: Iterable) -> Iterator[Tensor]:
    """The tensors among some values, and in lists and tuples among them."""
    for value in values:
        for tensor in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(tensor, Tensor):
                yield tensor
