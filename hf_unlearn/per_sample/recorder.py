"""Finds, during a forward pass, every call in which parameters meet samples, and taps the gradient
behind it."""

import contextlib
import types
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import _engine_run_backward
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from .layout import LEADING, Layouts
from .rules import LIKE, REWRITTEN, out_of_place
from .shards import sharded_modules
from .trace import Call, Key, Tap, Trace, at, unique


class Recorder(TorchFunctionMode):
    """Sees every torch function call, and follows what is computed from parameters until it meets
    samples.

    A tensor is constant (frozen parameters, buffers, whatever is made of nothing else), tracked
    (trainable parameters and whatever is made of them and of constants), or else holds samples.
    """

    def __init__(self, trace: Trace):
        super().__init__()
        self.trace, self.layouts, self.paused = trace, Layouts(max(1, trace.k)), False

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        # keep recording inside: checkpointed parts run their forward pass again there
        if func in _BACKWARD:
            with self:
                return _BACKWARD[func](*args, **kwargs)
        if self.paused or self._is_reduction():
            return func(*args, **kwargs)
        tracked, samples = self._sort(func, args, kwargs)
        if tracked and (samples or self._spreads(func, args)):
            if func is F.multi_head_attention_forward:  # there are rules for its parts
                with self:
                    return _OPENED_ATTENTION(*args, **kwargs)
            return self._meet(func, args, kwargs, tracked, samples)
        output = func(*args, **kwargs)
        self._follow(func, args, output, tracked, samples)
        if samples:
            self.layouts.follow(func, args, kwargs, output, self._is_sample)
        return output

    def _is_reduction(self) -> bool:
        """Whether this is FSDP2 at work in the backward pass, and no checkpoint that is computed
        again."""
        return self.trace.sharded and self.trace.in_backward and not torch.is_grad_enabled()

    def replaced(self, before: list, after: list) -> None:
        """Takes tensors for what others were, whose place they have taken."""
        for x, y in zip(before, after):
            if x is y or not isinstance(x, Tensor):
                continue
            # its gradient may not go through FSDP2's own nodes early
            if id(x) in self.trace.tracked:
                self.trace.give_up(
                    self.trace.tracked[id(x)][1], "what is made of it enters another sharded module"
                )
            elif id(x) in self.trace.constants:
                self.trace.constants[id(y)] = y
            else:
                self.layouts.note(y, self.layouts.of(x))

    def _is_sample(self, tensor: Tensor) -> bool:
        return id(tensor) not in self.trace.constants and id(tensor) not in self.trace.tracked

    def _sort(self, func, args, kwargs) -> tuple[dict[Key, Tensor], list[Key]]:
        """Tracked tensors by key, and keys of arguments with samples."""
        tracked, samples = {}, []
        for key, value in (*enumerate(args), *kwargs.items()):
            several = isinstance(value, (list, tuple))
            for place, tensor in enumerate(value if several else (value,)):
                if not isinstance(tensor, Tensor) or id(tensor) in self.trace.constants:
                    continue
                if id(tensor) in self.trace.tracked:
                    tracked[(key, place) if several else key] = tensor
                elif not self._single(tensor):
                    samples.append((key, place) if several else key)
        if func.__name__ in LIKE:  # the other tensor only lends its type or its shape
            return ({0: tracked[0]}, []) if 0 in tracked else ({}, samples)
        return tracked, samples

    def _single(self, tensor: Tensor) -> bool:
        """A whole number (of an expert), one line for all samples (of prompt tokens), or a table of
        whole numbers that does not divide over the samples (of relative positions, made in an
        earlier pass) belongs to no sample."""
        if tensor.requires_grad or self.layouts.of(tensor) is not LEADING:
            return False
        whole, k = tensor.dtype in (torch.int32, torch.int64), self.trace.k
        if not tensor.ndim:
            return not tensor.is_floating_point()
        return len(tensor) == 1 < k or whole and len(tensor) % k > 0

    def _spreads(self, func, args) -> bool:
        """Whether this call makes a copy for each sample, without having seen one:
        `cls_token.expand(k, -1, -1)`, or a look-up of positions that were repeated k times."""
        if func in (torch.Tensor.expand, torch.Tensor.repeat):
            sizes = args[1] if isinstance(args[1], (tuple, list)) else args[1:]
            own = args[0].shape[0] if args[0].ndim == len(sizes) else 1
            return len(sizes) > 1 and own == 1 and sizes[0] == self.trace.k
        if func in (torch.Tensor.__getitem__, F.embedding):
            index = args[1] if func is torch.Tensor.__getitem__ else args[0]
            return (
                isinstance(index, Tensor)
                and index.ndim > 1
                and len(index) == self.trace.k
                and _repeated(index)
            )
        return False

    def _follow(self, func, args, output, tracked, samples) -> None:
        """Notes of which kind the outputs are, and what the call has written into."""
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

    def _meet(self, func, args, kwargs, tracked, samples):
        roots, changed = self._roots(tracked), None
        values = {key: tensor.detach() for key, tensor in tracked.items()}
        behind = {key: self.trace.tracked[id(tensor)][1] for key, tensor in tracked.items()}
        if _overwrites(func):
            changed = args[0]
            if 0 in tracked:  # its history is about to be written over, too
                tracked[0] = changed.clone()
            func, values = (
                out_of_place(func),
                {0: changed.detach() if 0 in tracked else changed.clone(), **values},
            )
        arguments = {**dict(enumerate(args)), **kwargs}
        layouts = {key: self.layouts.of(at(arguments, key)) for key in samples}
        call = Call(
            self.trace,
            func,
            arguments,
            tracked,
            layouts,
            LEADING,
            behind,
            _autocast(roots[0].device.type),
        )
        output = call.run(values)
        self.layouts.follow(func, args, kwargs, output, self._is_sample)
        if not all(id(root) in self.trace.slow for root in roots):
            output = self._tap(call, output, {**arguments, **values})
        if changed is None:
            return output
        if 0 in tracked and not changed._is_view():
            changed.detach_()
        changed.copy_(output)  # from here on it holds samples, whatever it was before
        for tensor in (changed, changed._base) if changed._is_view() else (changed,):
            self.trace.tracked.pop(id(tensor), None)
            self.trace.constants.pop(id(tensor), None)
        return changed

    def _tap(self, call: Call, output, values: dict):
        outputs = output if isinstance(output, (list, tuple)) else (output,)
        floating = [x for x in outputs if isinstance(x, Tensor) and x.is_floating_point()]
        if not floating:
            return output
        if any(x.layout != torch.strided for x in floating):
            self.trace.give_up(call.roots, f"{call.function.__name__} makes a sparse tensor")
            return output
        self.trace.count(call.roots)
        if not torch.is_grad_enabled():  # the first pass of a re-entrant checkpoint
            return output
        call = replace(call, output=self.layouts.of(floating[0]))
        if call.function.__name__ in REWRITTEN:
            call, values = REWRITTEN[call.function.__name__](call, values)
        saved = (
            [_kept(at(values, key), floating[0]) for key in call.samples]
            if call.needs_values
            else []
        )
        tapped = Tap.apply(
            call.emptied(),
            len(floating),
            len(saved),
            *floating,
            *saved,
            *map(self.trace.leaf, call.roots),
        )
        tapped = list(tapped) if len(floating) > 1 else [tapped]
        for before, after in zip(floating, tapped):
            self.layouts.note(after, self.layouts.of(before))
        outputs = [tapped.pop(0) if any(x is y for y in floating) else x for x in outputs]
        return tuple(outputs) if isinstance(output, (list, tuple)) else outputs[0]


@contextlib.contextmanager
def fsdp_hidden(model: nn.Module, recorder: Recorder):
    """Within this context a recorder does not see what FSDP2 does before and after its modules
    compute (the recorder would keep the gathered tensors alive), and takes the tensors that FSDP2
    hands on for those that it was given."""
    given, handles = [], []

    def before(module, args, kwargs):
        recorder.paused = True
        given.append(tree_leaves((args, kwargs)))

    def after(module, args, kwargs):
        recorder.paused = False
        recorder.replaced(given.pop(), tree_leaves((args, kwargs)))

    def before_leaving(module, args, output):
        recorder.paused = True
        given.append(tree_leaves(output))

    def after_leaving(module, args, output):
        recorder.paused = False
        recorder.replaced(given.pop(), tree_leaves(output))

    for module in sharded_modules(model):
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


def _backward(
    tensors,
    grad_tensors=None,
    retain_graph=None,
    create_graph=False,
    grad_variables=None,
    inputs=None,
):
    """`torch.autograd.backward`, entered below the point where torch function modes are
    suspended."""
    tensors = (tensors,) if isinstance(tensors, Tensor) else tuple(tensors)
    grads = (
        (grad_tensors,)
        if isinstance(grad_tensors, Tensor)
        else tuple(grad_tensors or [None] * len(tensors))
    )
    grads = tuple(torch.ones_like(t) if grad is None else grad for t, grad in zip(tensors, grads))
    keep = create_graph if retain_graph is None else retain_graph
    inputs = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs or ())
    _engine_run_backward(
        tensors, grads, keep, create_graph, inputs, allow_unreachable=True, accumulate_grad=True
    )


_BACKWARD = {
    torch.autograd.backward: _backward,
    torch.Tensor.backward: lambda tensor, gradient=None, retain_graph=None, create_graph=False, inputs=None: (
        _backward(tensor, gradient, retain_graph, create_graph, inputs=inputs)
    ),
}


def _opened(function: Callable) -> Callable:
    """A Python function of torch that does not offer itself to torch function modes, so that they
    see its parts."""
    names = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
    return types.FunctionType(
        function.__code__,
        {**function.__globals__, **dict.fromkeys(names, lambda *tensors: False)},
        function.__name__,
        function.__defaults__,
    )


_OPENED_ATTENTION = _opened(F.multi_head_attention_forward)
_OPENED_ATTENTION.__kwdefaults__ = F.multi_head_attention_forward.__kwdefaults__


def _overwrites(func) -> bool:
    name = func.__name__
    return (
        name in ("__setitem__", "__set__")
        or name.startswith("__i") and name not in ("__index__", "__int__", "__invert__")
        or (name.endswith("_") and not name.endswith("__"))
    )  # fmt: skip


def _repeated(index: Tensor) -> bool:
    """Whether all lines are the same (relative positions differ, and there may be as many lines as
    samples)."""
    return index.stride(0) == 0 or bool((index == index[:1]).all())


def _autocast(device: str) -> tuple[str, torch.dtype, bool]:
    return device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)


def _kept(sample: Tensor, output: Tensor) -> Tensor:
    """What a tap keeps of a sample tensor: where autocast has computed in half precision, so is
    this (as autograd does).
    """
    half = output.dtype in (torch.float16, torch.bfloat16) and sample.dtype == torch.float32
    return sample.detach().to(output.dtype) if half else sample.detach()
