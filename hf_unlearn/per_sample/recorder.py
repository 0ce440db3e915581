"""Finds, during a forward pass, every call in which parameters meet samples, and taps the gradient behind it."""

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import _engine_run_backward
from torch.overrides import TorchFunctionMode

from .rows import Dense, Rows, written_out
from .rules import RULES, Unsupported, by_sample

if TYPE_CHECKING:
    from .engine import PerSampleEngine

# In-place calls whose rule does not need the value that they overwrite, with the rule's name.
IN_PLACE = {"add_": "add", "__iadd__": "add"}
_TAKEN = object()  # stands in a recorded call for a sample tensor, which belongs to the autograd graph alone


@dataclass(frozen=True)
class Call:
    """One call in which tracked tensors (parameters, and what is made of parameters alone) meet samples.

    Arguments are named by their key: the position for positional arguments, the name for keyword arguments.
    """

    function: Callable
    arguments: dict[int | str, object]
    tracked: dict[int | str, Tensor]
    samples: tuple[int | str, ...]
    roots: tuple[nn.Parameter, ...]  # the parameters behind the tracked tensors
    autocast: tuple[str, torch.dtype, bool]  # device type, dtype, enabled

    @property
    def rule(self) -> Callable | None:
        return RULES.get(IN_PLACE.get(self.function.__name__, self.function.__name__))

    def run(self, values: dict[int | str, Tensor]):
        """Calls the function with some arguments replaced."""
        arguments = {**self.arguments, **values}
        positional = [value for key, value in arguments.items() if isinstance(key, int)]
        return self.function(*positional, **{key: value for key, value in arguments.items() if isinstance(key, str)})


class Tap(torch.autograd.Function):
    """Identity on a call's output; its backward pass hands the engine what the parameters' gradients are made of."""

    @staticmethod
    def forward(ctx, engine, call, output, *tensors):
        ctx.engine, ctx.call = engine, call
        ctx.save_for_backward(*tensors[: len(call.samples)])
        if call.rule is None or output._is_view():
            return output.view_as(output)
        # The same tensor rather than a view of it: in-place activations may follow. No function that has a rule keeps
        # its output for its own backward pass, so nothing minds.
        ctx.mark_dirty(output)
        return output

    @staticmethod
    def backward(ctx, B):
        gradients = ctx.engine.receive(ctx.call, B, ctx.saved_tensors)
        return (None, None, B, *[None] * len(ctx.call.samples), *gradients)


class Recorder(TorchFunctionMode):
    """Sees every torch function call, and follows what is computed from parameters until it meets samples.

    A tensor is constant (frozen parameters, buffers, whatever is made of nothing else), tracked (trainable parameters
    and whatever is made of them and of constants), or else holds samples.
    """

    def __init__(self, engine: "PerSampleEngine"):
        super().__init__()
        self.engine = engine

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in _BACKWARD:  # keep recording inside: checkpointed parts run their forward pass again there
            with self:
                return _BACKWARD[func](*args, **kwargs)
        tracked, samples, lists = self._sort(args, kwargs)
        if tracked and (samples or self._spreads(func, args)):
            return self._meet(func, args, kwargs, tracked, samples, lists)
        output = func(*args, **kwargs)
        if tracked:
            self._follow(output, _unique(root for t in tracked.values() for root in self.engine.tracked[id(t)][1]))
        elif not samples:
            self._follow(output, ())
        elif args and _overwrites(func) and id(args[0]) in self.engine.constants:
            del self.engine.constants[id(args[0])]  # samples were written into it
        return output

    def _sort(self, args, kwargs):
        """Tracked tensors by key, keys of arguments with samples, and whether any of those is a list of tensors."""
        tracked, samples, lists = {}, [], False
        for key, value in (*enumerate(args), *kwargs.items()):
            several = isinstance(value, (list, tuple))
            for tensor in value if several else (value,):
                if not isinstance(tensor, Tensor) or id(tensor) in self.engine.constants:
                    continue
                lists |= several
                if id(tensor) in self.engine.tracked:
                    tracked[(key, len(tracked)) if several else key] = tensor
                elif not samples or samples[-1] != key:
                    samples.append(key)
        return tracked, tuple(samples), lists

    def _spreads(self, func, args) -> bool:
        """Whether this call makes a copy for each sample, without having seen one: `cls_token.expand(k, -1, -1)`, or a
        look-up of positions that were repeated k times."""
        if func in (torch.Tensor.expand, torch.Tensor.repeat):
            sizes = args[1] if isinstance(args[1], (tuple, list)) else args[1:]
            return args[0].ndim == len(sizes) > 1 and args[0].shape[0] == 1 and sizes[0] == self.engine.k
        if func in (torch.Tensor.__getitem__, F.embedding):
            index = args[1] if func is torch.Tensor.__getitem__ else args[0]
            return isinstance(index, Tensor) and index.ndim > 1 and len(index) == self.engine.k
        return False

    def _follow(self, output, roots: tuple[nn.Parameter, ...]) -> None:
        for tensor in output if isinstance(output, (list, tuple)) else (output,):
            if not isinstance(tensor, Tensor) or id(tensor) in self.engine.tracked:
                continue
            if roots and tensor.requires_grad:
                self.engine.tracked[id(tensor)] = (tensor, roots)
            else:
                self.engine.constants[id(tensor)] = tensor

    def _meet(self, func, args, kwargs, tracked, samples, lists):
        roots = _unique(root for t in tracked.values() for root in self.engine.tracked[id(t)][1])
        if lists:
            raise Unsupported(f"{func.__name__} takes a list of tensors", roots)
        if _overwrites(func) and func.__name__ not in IN_PLACE or "out" in kwargs:
            raise Unsupported(f"{func.__name__} overwrites its input", roots)
        device = roots[0].device.type
        autocast = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        arguments = {**dict(enumerate(args)), **kwargs}
        call = Call(func, arguments, tracked, samples, roots, autocast)
        output = call.run({key: tensor.detach() for key, tensor in tracked.items()})
        if not isinstance(output, Tensor):
            raise Unsupported(f"{func.__name__} returns no single tensor", roots)
        self.engine.count(roots)
        if not torch.is_grad_enabled():  # the first pass of a re-entrant checkpoint
            return output
        call = replace(call, arguments={**arguments, **dict.fromkeys(samples, _TAKEN)})
        return Tap.apply(self.engine, call, output, *[_kept(arguments[key], output) for key in samples], *roots)


def _backward(tensors, grad_tensors=None, retain_graph=None, create_graph=False, grad_variables=None, inputs=None):
    """`torch.autograd.backward`, entered below the point where torch function modes are suspended."""
    tensors = (tensors,) if isinstance(tensors, Tensor) else tuple(tensors)
    grads = (grad_tensors,) if isinstance(grad_tensors, Tensor) else tuple(grad_tensors or [None] * len(tensors))
    grads = tuple(torch.ones_like(t) if grad is None else grad for t, grad in zip(tensors, grads))
    keep = create_graph if retain_graph is None else retain_graph
    inputs = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs or ())
    _engine_run_backward(tensors, grads, keep, create_graph, inputs, allow_unreachable=True, accumulate_grad=True)


_BACKWARD = {
    torch.autograd.backward: _backward,
    torch.Tensor.backward: lambda tensor, gradient=None, retain_graph=None, create_graph=False, inputs=None: _backward(
        tensor, gradient, retain_graph, create_graph, inputs=inputs
    ),
}


def _overwrites(func) -> bool:
    name = func.__name__
    return (
        name in ("__setitem__", "__set__")
        or name.startswith("__i")
        or (name.endswith("_") and not name.endswith("__"))
    )


def _unique(parameters: Iterable[nn.Parameter]) -> tuple[nn.Parameter, ...]:
    return tuple({id(p): p for p in parameters}.values())


def _kept(sample: Tensor, output: Tensor) -> Tensor:
    """What a tap keeps of a sample tensor: where autocast has computed in half precision, so is this (as autograd
    does).
    """
    half = output.dtype in (torch.float16, torch.bfloat16) and sample.dtype == torch.float32
    return sample.detach().to(output.dtype) if half else sample.detach()


def rows_of(call: Call, k: int, B: Tensor, samples: tuple[Tensor, ...]) -> Iterator[tuple[nn.Parameter, Rows]]:
    """The per-sample gradients of every parameter behind a call, from its inputs and its output's gradient B."""
    values = {
        **call.arguments,
        **dict(zip(call.samples, samples)),
        **{key: t.detach() for key, t in call.tracked.items()},
    }
    for key, tensor in call.tracked.items():
        rows = _by_rule(call, k, B, values, key) or _vectorised(call, k, B, values, key)
        if isinstance(tensor, nn.Parameter):
            yield tensor, rows
        else:
            yield from _pulled_back(call, tensor, rows, k)


def _by_rule(call: Call, k: int, B: Tensor, values: dict, key: int | str) -> Rows | None:
    if call.rule is None:
        return None
    name = key if isinstance(key, str) else list(inspect.signature(call.rule).parameters)[2:][key]
    try:
        positional = [value for at, value in values.items() if isinstance(at, int)]
        makers = call.rule(k, B, *positional, **{at: value for at, value in values.items() if isinstance(at, str)})
        return makers[name]() if name in makers else None
    except Unsupported:
        return None


def _vectorised(call: Call, k: int, B: Tensor, values: dict, key: int | str) -> Dense:
    """G_n by vectorised differentiation of the call on single samples, for any function that torch.func.vmap takes."""

    def of_one(B_n, *samples_n):
        given = {**values, **dict(zip(call.samples, samples_n))}
        _, pull = torch.func.vjp(lambda weight: call.run({**given, key: weight}), values[key])
        return pull(B_n)[0]

    device, dtype, enabled = call.autocast
    try:
        with torch.autocast(device, dtype=dtype, enabled=enabled):
            samples = [by_sample(values[at], k) for at in call.samples]
            return Dense(torch.func.vmap(of_one)(by_sample(B, k), *samples))
    except (Unsupported, RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        raise Unsupported(f"{call.function.__name__} has no rule and does not vectorise", call.roots) from error


def _pulled_back(call: Call, tensor: Tensor, rows: Rows, k: int) -> Iterator[tuple[nn.Parameter, Rows]]:
    """From per-sample gradients of a tensor made of parameters to those of the parameters."""
    lines = tensor.shape[0] if tensor.ndim else 1
    G = written_out([rows], lines, tensor.numel() // lines).reshape(k, *tensor.shape).to(tensor.dtype)
    gradients = torch.autograd.grad(tensor, call.roots, G, retain_graph=True, allow_unused=True, is_grads_batched=True)
    for parameter, gradient in zip(call.roots, gradients):
        if gradient is not None:
            yield parameter, Dense(gradient)
