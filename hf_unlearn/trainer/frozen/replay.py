"""Runs a model with the kept outputs of its frozen first part in place of the part itself."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from .calls import is_repeatable, keys_of, named_arguments, outputs_asked_for, replacing_forward
from .finding import FrozenPart
from .store import TensorStore

# The outputs of all blocks, as (structure, leaves): for a tensor its `_Shape`, other values as they
# are.
Shapes = tuple[tuple[Any, tuple], ...]
# What is kept of one sample: the shapes, and its row of each tensor of the last block's output.
Row = tuple[Shapes, tuple[Tensor, ...]]


class _Finished(Exception):
    """The last block of the part is computed: what follows is not needed."""


class Replay:
    """Replaces a frozen part of a model by its outputs, which are computed once for each sample.

    A sample is recognised by the values of all inputs of the part's entry, padding included. So a
    sample that looks different each time (random augmentation, other padding) is computed each
    time, and nothing that is kept belongs to another input.

    The modules of the part are still called, as is the code between them; but within `active` they
    return zeros, and the last one what was kept.

    Args:
        store: where outputs are kept.

    Attributes:
        random: whether the part is random in training mode, where it is then computed as usual.
        used: how many samples did not have to be computed.
        by_count: whether rounding depends on the number of samples of a batch, as in products of
            small matrices. Then a sample is kept for each number by itself, and whole batches are
            computed, so that a step has the same values to the last bit.
        passed_random: whether it was computed as usual because it is random.
    """

    def __init__(self, part: FrozenPart, store: TensorStore):
        self.part, self.store, self.random, self.used = part, store, False, 0
        self.by_count = self.passed_random = False
        self._inside = {m: None for block in part.blocks for m in block.modules()}
        self._is_active = False
        self._weights = self._current_weights()
        self._asked: list[str] | None = None
        # The rows that the blocks return now, or the outputs that are recorded now.
        self._rows: list[Row] | None = None
        self._recorded: dict[nn.Module, Any] | None = None

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Within this context the model uses what is kept. Nothing of it stays in the model."""
        if self._is_active:
            yield
            return
        blocks = [block for block in self.part.blocks if block is not self.part.entry]
        with contextlib.ExitStack() as stack:
            stack.enter_context(replacing_forward(self.part.entry, self._enter))
            for block in blocks:
                stack.enter_context(replacing_forward(block, self._call_block))
            self._is_active = True
            try:
                yield
            finally:
                self._is_active = False

    # ---- the entry -------------------------------------------------------------------------------

    def _enter(self, module: nn.Module, forward: Callable, args: tuple, kwargs: dict) -> Any:
        if self._rows is not None or self._recorded is not None:
            return forward(*args, **kwargs)
        rows = self._rows_of(forward, args, kwargs)
        if rows is None:
            return forward(*args, **kwargs)
        self._rows = rows
        try:
            return self._through(forward, args, kwargs)
        finally:
            self._rows = None

    def _through(self, forward: Callable, args: tuple, kwargs: dict) -> Any:
        """Calls the entry, which may be the only block."""
        if self.part.entry is self.part.last:
            return self._call_block(self.part.last, forward, args, kwargs)
        return forward(*args, **kwargs)

    def _rows_of(self, forward: Callable, args: tuple, kwargs: dict) -> list[Row] | None:
        """What is kept of the samples in a call of the entry, after the missing ones were computed;
        None if the call cannot be replaced."""
        arguments = named_arguments(self.part.entry, forward, args, kwargs)
        # The recorder of per-sample gradients must not see how rows are found.
        with torch._C.DisableTorchFunction(), torch.inference_mode(False), torch.no_grad():
            if not self._is_replaceable(arguments):
                return None
            keys = keys_of(arguments, self._device, self.by_count)
            rows = [self.store.get(key) for key in keys]
            missing = [n for n, row in enumerate(rows) if row is None]
            if missing and self.by_count:
                missing = list(range(len(keys)))
            self.used += len(keys) - len(missing)
            if missing:
                computed = self._compute(forward, args, kwargs, missing, len(keys))
                if computed is None:
                    return None
                for n, row in zip(missing, computed):
                    rows[n] = row
                    self.store.keep(keys[n], *row)
        complete = [row for row in rows if row is not None]
        same = all(shapes == complete[0][0] for shapes, _ in complete)
        return complete if same else None

    def _is_replaceable(self, arguments: dict) -> bool:
        entry = self.part.entry
        if entry.training and self.random:
            self.passed_random = True
            return False
        asked = outputs_asked_for(entry, arguments)
        if self._asked is None:
            self._asked = asked
        # The first call was compared with the plain model: what it asked for is not used.
        if asked != self._asked or self._is_watched() or not is_repeatable(arguments):
            return False
        return self._is_still_frozen()

    def _is_watched(self) -> bool:
        """Whether a user's hooks watch the modules. (Those of transformers only collect the outputs
        that a call asks for.)"""
        hooks = (
            hook
            for module in self._inside
            for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        )
        return any(not getattr(h, "__module__", "").startswith("transformers.") for h in hooks)

    def _is_still_frozen(self) -> bool:
        """Whether the part is still frozen. Empties the store if its weights have changed."""
        if any(p.requires_grad for p in self._parameters()):
            return False
        now = self._current_weights()
        if [kept[1:] for kept in now] != [kept[1:] for kept in self._weights]:
            self.store.clear()
        self._weights = now
        return True

    def _current_weights(self) -> list[tuple]:
        """Each weight with its version, which shows whether it was written to or replaced. (Holding
        the weights prevents new tensors from reusing their ids.)"""
        return [
            (p.detach(), p.data_ptr(), p._version, p.dtype, str(p.device))
            for p in self._parameters()
        ]

    def _parameters(self) -> list[Tensor]:
        return [
            x
            for module in self._inside
            for x in (*module._parameters.values(), *module._buffers.values())
            if x is not None
        ]

    @property
    def _device(self) -> torch.device:
        return next(self.part.last.parameters()).device

    # ---- the blocks ------------------------------------------------------------------------------

    def _compute(
        self, forward: Callable, args: tuple, kwargs: dict, indices: list[int], samples: int
    ) -> list[Row] | None:
        """Computes the part for some samples of a call of its entry; returns what is kept of them,
        or None if this call leaves out blocks."""
        args, kwargs = tree_map(lambda x: _select(x, indices, samples), (args, kwargs))
        self._recorded = {}
        try:
            self._through(forward, args, kwargs)
        except _Finished:
            pass
        finally:
            recorded, self._recorded = self._recorded, None
        if len(recorded) < len(self.part.blocks):
            return None
        shapes = tuple(_shapes(recorded[block]) for block in self.part.blocks)
        values = [x for x in tree_leaves(recorded[self.part.last]) if isinstance(x, Tensor)]
        values = [x.cpu() for x in values]
        # Copies, because a slice would keep the other samples' values alive.
        return [(shapes, tuple(x[n].clone() for x in values)) for n in range(len(indices))]

    def _call_block(self, block: nn.Module, forward: Callable, args: tuple, kwargs: dict) -> Any:
        if self._recorded is not None:
            output = self._recorded[block] = forward(*args, **kwargs)
            if block is self.part.last:
                raise _Finished
            return output
        if self._rows is None:
            return forward(*args, **kwargs)
        structure, leaves = self._rows[0][0][self.part.blocks.index(block)]
        with torch._C.DisableTorchFunction():
            if block is self.part.last:
                stacked = [torch.stack(column) for column in zip(*(row for _, row in self._rows))]
                tensors = iter([x.to(self._device) for x in stacked])
                filled = [next(tensors) if isinstance(x, _Shape) else x for x in leaves]
            else:
                k = len(self._rows)
                filled = [x.zeros(k, self._device) if isinstance(x, _Shape) else x for x in leaves]
        return tree_unflatten(filled, structure)


class _Shape(NamedTuple):
    """The shape of a tensor without its samples, and its dtype."""

    sizes: torch.Size
    dtype: torch.dtype

    def zeros(self, samples: int, device: torch.device) -> Tensor:
        return torch.zeros((samples, *self.sizes), dtype=self.dtype, device=device)


def _shapes(output: Any) -> tuple[Any, tuple]:
    leaves, structure = tree_flatten(output)
    return structure, tuple(
        _Shape(x.shape[1:], x.dtype) if isinstance(x, Tensor) else x for x in leaves
    )


def _select(value: Any, indices: list[int], samples: int) -> Any:
    by_sample = isinstance(value, Tensor) and value.ndim and len(value) == samples
    return value[indices] if by_sample and len(indices) < samples else value
