"""Finds, during a forward pass, every call that combines parameters with samples.

It puts a tap on the output of each such call.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from .layouts.layout import LEADING
from .layouts.layout_tracker import LayoutTracker
from .rewriting import REWRITTEN
from .rules import LIKE, out_of_place
from .shards import sharded_modules
from .torch_internals import BACKWARD_FUNCTIONS, open_attention
from .trace import Call, Key, Tap, Trace, at, unique


class Recorder(TorchFunctionMode):
    """Sees every torch function call and follows what is computed from parameters alone.

    A tensor is constant (frozen parameters, buffers, and what is computed from constants alone),
    tracked (trainable parameters, and what is computed from them and constants), or holds samples.
    """

    def __init__(self, trace: Trace):
        super().__init__()
        self.trace, self.layouts, self.paused = trace, LayoutTracker(max(1, trace.k)), False

    def __torch_function__(
        self, func: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        # Keep recording inside: checkpointed parts run their forward pass again there.
        if func in BACKWARD_FUNCTIONS:
            with self:
                return BACKWARD_FUNCTIONS[func](*args, **kwargs)
        if self.paused or self._is_reduction():
            return func(*args, **kwargs)
        tracked, samples = self._sort(func, args, kwargs)
        if tracked and (samples or self._copies_per_sample(func, args)):
            # No rule covers this function, but rules cover the functions that it calls.
            if func is F.multi_head_attention_forward:
                with self:
                    return open_attention(*args, **kwargs)
            return self._record(func, args, kwargs, tracked, samples)
        with _kept_by_autograd() if tracked and not samples else contextlib.nullcontext():
            output = func(*args, **kwargs)
        self._follow(func, args, output, tracked, samples)
        if samples:
            self.layouts.follow(func, args, kwargs, output, self._is_sample)
        return output

    def _is_reduction(self) -> bool:
        """Whether FSDP2 makes this call in the backward pass, not a recomputed checkpoint."""
        return self.trace.sharded and self.trace.in_backward and not torch.is_grad_enabled()

    def replaced(self, before: list, after: list) -> None:
        """Gives tensors the kind (constant, tracked, samples) of those that they replace."""
        for x, y in zip(before, after):
            if x is y or not isinstance(x, Tensor):
                continue
            # Its gradient must not pass through FSDP2's own nodes early.
            if id(x) in self.trace.tracked:
                reason = "a tensor computed from it enters another sharded module"
                self.trace.give_up(self.trace.tracked[id(x)][1], reason)
            elif id(x) in self.trace.constants:
                self.trace.constants[id(y)] = y
            else:
                self.layouts.note(y, self.layouts.of(x))

    def _is_sample(self, tensor: Tensor) -> bool:
        return id(tensor) not in self.trace.constants and id(tensor) not in self.trace.tracked

    def _sort(
        self, func: Callable, args: tuple, kwargs: dict
    ) -> tuple[dict[Key, Tensor], list[Key]]:
        """Tracked tensors by key, and the keys of arguments that hold samples."""
        tracked, samples = {}, []
        for key, value in (*enumerate(args), *kwargs.items()):
            several = isinstance(value, (list, tuple))
            for index, tensor in enumerate(value if several else (value,)):
                if not isinstance(tensor, Tensor) or id(tensor) in self.trace.constants:
                    continue
                if id(tensor) in self.trace.tracked:
                    tracked[(key, index) if several else key] = tensor
                elif not self._belongs_to_no_sample(tensor):
                    samples.append((key, index) if several else key)
        # The other tensor only provides its dtype or its shape.
        if func.__name__ in LIKE:
            return ({0: tracked[0]}, []) if 0 in tracked else ({}, samples)
        return tracked, samples

    def _belongs_to_no_sample(self, tensor: Tensor) -> bool:
        """Whether a tensor that is neither tracked nor constant still holds no samples.

        This is so for an integer (the number of an expert), for one line that all samples share
        (prompt tokens), and for a table of integers that does not divide over the samples (relative
        positions that were computed in an earlier pass).
        """
        if tensor.requires_grad or self.layouts.of(tensor) is not LEADING:
            return False
        integers, k = tensor.dtype in (torch.int32, torch.int64), self.trace.k
        if not tensor.ndim:
            return not tensor.is_floating_point()
        return len(tensor) == 1 < k or integers and len(tensor) % k > 0

    def _copies_per_sample(self, func: Callable, args: tuple) -> bool:
        """Whether this call copies a parameter for each sample, though no argument holds samples.

        Examples are `cls_token.expand(k, -1, -1)` and a look-up of positions that were repeated k
        times.
        """
        if func in (torch.Tensor.expand, torch.Tensor.repeat):
            sizes = args[1] if isinstance(args[1], (tuple, list)) else args[1:]
            rows = args[0].shape[0] if args[0].ndim == len(sizes) else 1
            return len(sizes) > 1 and rows == 1 and sizes[0] == self.trace.k
        if func in (torch.Tensor.__getitem__, F.embedding):
            index = args[1] if func is torch.Tensor.__getitem__ else args[0]
            per_sample = isinstance(index, Tensor) and index.ndim > 1 and len(index) == self.trace.k
            return per_sample and _repeated(index)
        return False

    def _follow(
        self,
        func: Callable,
        args: tuple,
        output: object,
        tracked: dict[Key, Tensor],
        samples: list[Key],
    ) -> None:
        """Notes the kind of each output, and of the tensor that an in-place call writes to."""
        tensors = output if isinstance(output, (list, tuple)) else (output,)
        if args and isinstance(args[0], Tensor) and _overwrites(func):
            tensors = (args[0], args[0]._base) if args[0]._is_view() else (args[0],)
        roots = self._roots(tracked)
        for tensor in tensors:
            if not isinstance(tensor, Tensor) or isinstance(tensor, nn.Parameter):
                continue
            if samples and not tracked:
                self.trace.constants.pop(id(tensor), None)
            elif roots and tensor.requires_grad:
                self.trace.constants.pop(id(tensor), None)
                before = self.trace.tracked.get(id(tensor), (None, ()))[1]
                self.trace.tracked[id(tensor)] = (tensor, unique((*before, *roots)))
            elif id(tensor) not in self.trace.tracked and not samples:
                self.trace.constants[id(tensor)] = tensor

    def _roots(self, tracked: dict[Key, Tensor]) -> tuple[nn.Parameter, ...]:
        return unique(
            root for tensor in tracked.values() for root in self.trace.tracked[id(tensor)][1]
        )

    def _record(
        self,
        func: Callable,
        args: tuple,
        kwargs: dict,
        tracked: dict[Key, Tensor],
        samples: list[Key],
    ) -> object:
        """Runs a call that combines parameters with samples, and puts a tap on its output."""
        roots, changed = self._roots(tracked), None
        values = {key: tensor.detach() for key, tensor in tracked.items()}
        behind = {key: self.trace.tracked[id(tensor)][1] for key, tensor in tracked.items()}
        if _overwrites(func):
            changed = args[0]
            # Writing to the tensor replaces its autograd history, which is needed here.
            if 0 in tracked:
                tracked[0] = changed.clone()
            func = out_of_place(func)
            values = {0: changed.detach() if 0 in tracked else changed.clone(), **values}
        arguments = {**dict(enumerate(args)), **kwargs}
        layouts = {key: self.layouts.of(at(arguments, key)) for key in samples}
        autocast = _autocast(roots[0].device.type)
        call = Call(self.trace, func, arguments, tracked, layouts, LEADING, behind, autocast)
        output = call.run(values)
        self.layouts.follow(func, args, kwargs, output, self._is_sample)
        output = self._tap(call, output, {**arguments, **values})
        if changed is None:
            return output
        if 0 in tracked and not changed._is_view():
            changed.detach_()
        # From here on it holds samples, whatever it held before.
        changed.copy_(output)
        for tensor in (changed, changed._base) if changed._is_view() else (changed,):
            self.trace.tracked.pop(id(tensor), None)
            self.trace.constants.pop(id(tensor), None)
        return changed

    def _tap(self, call: Call, output: object, values: dict) -> object:
        """The output of a call with a tap on its floating-point tensors.

        Args:
            values: of the arguments, by key.
        """
        outputs = output if isinstance(output, (list, tuple)) else (output,)
        floating = [x for x in outputs if isinstance(x, Tensor) and x.is_floating_point()]
        if not floating:
            return output
        if any(x.layout != torch.strided for x in floating):
            self.trace.give_up(call.roots, f"{call.function.__name__} makes a sparse tensor")
            return output
        self.trace.count(call.roots)
        # The first pass of a re-entrant checkpoint has no graph to tap.
        if not torch.is_grad_enabled():
            return output
        call = replace(call, output=self.layouts.of(floating[0]))
        if call.function.__name__ in REWRITTEN:
            call, values = REWRITTEN[call.function.__name__](call, values)
        keys = call.samples if call.needs_values else ()
        saved = [_saved(at(values, key), floating[0]) for key in keys]
        leaves = map(self.trace.leaf, call.roots)
        tapped = Tap.apply(call.emptied(), len(floating), len(saved), *floating, *saved, *leaves)
        tapped = list(tapped) if len(floating) > 1 else [tapped]
        for before, after in zip(floating, tapped):
            self.layouts.note(after, self.layouts.of(before))
        outputs = [tapped.pop(0) if any(x is y for y in floating) else x for x in outputs]
        return tuple(outputs) if isinstance(output, (list, tuple)) else outputs[0]


@contextlib.contextmanager
def fsdp_hidden(model: nn.Module, recorder: Recorder) -> Iterator[None]:
    """Hides from a recorder what FSDP2 does before and after its modules compute.

    The recorder would keep the gathered tensors alive. It treats the tensors that FSDP2 passes on
    like those that FSDP2 was given.
    """
    leaves, handles = [], []

    def before(module: nn.Module, args: tuple, kwargs: dict) -> None:
        recorder.paused = True
        leaves.append(tree_leaves((args, kwargs)))

    def after(module: nn.Module, args: tuple, kwargs: dict) -> None:
        recorder.paused = False
        recorder.replaced(leaves.pop(), tree_leaves((args, kwargs)))

    def before_leaving(module: nn.Module, args: tuple, output: object) -> None:
        recorder.paused = True
        leaves.append(tree_leaves(output))

    def after_leaving(module: nn.Module, args: tuple, output: object) -> None:
        recorder.paused = False
        recorder.replaced(leaves.pop(), tree_leaves(output))

    # FSDPModule is a base of modules that are nn.Modules, too.
    for module in cast("list[nn.Module]", sharded_modules(model)):
        handles += [
            module.register_forward_pre_hook(before, prepend=True, with_kwargs=True),
            module.register_forward_pre_hook(after, with_kwargs=True),
            module.register_forward_hook(before_leaving, prepend=True),
            module.register_forward_hook(after_leaving),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _kept_by_autograd() -> contextlib.AbstractContextManager:
    """Within this context, checkpoints do not drop what autograd saves.

    The rows of a tensor that is computed from parameters alone are carried back to the parameters
    in a backward pass of their own (`gradients.rows_of`), for which a checkpoint would compute its
    layer once more.
    """
    return torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x)


def _overwrites(func: Callable) -> bool:
    """Whether a function writes to its first argument."""
    name = func.__name__
    if name.startswith("__i"):
        return name not in ("__index__", "__int__", "__invert__")
    if name.endswith("__"):
        return name in ("__setitem__", "__set__")
    return name.endswith("_")


def _repeated(index: Tensor) -> bool:
    """Whether all lines are equal.

    Relative positions are not, even if there are as many lines of them as samples.
    """
    return index.stride(0) == 0 or bool((index == index[:1]).all())


def _autocast(device: str) -> tuple[str, torch.dtype, bool]:
    return device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)


def _saved(sample: Tensor, output: Tensor) -> Tensor:
    """What a tap saves of a sample tensor: in half precision if autocast computed the output so.

    Autograd does the same.
    """
    half = output.dtype in (torch.float16, torch.bfloat16) and sample.dtype == torch.float32
    return sample.detach().to(output.dtype) if half else sample.detach()
