"""What one recorded pass knows: which tensors hold parameters, constants or samples, and each call
in which parameters meet samples.

The recorder writes it in the forward pass, and the engine reads it in the backward pass.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .layout import Layout
from .rules import RULES, argument_name, needs_values

# Position or name of an argument; with an index, a member of a list.
Key = int | str | tuple[int | str, int]
# Replaces a sample tensor in a recorded call: only the autograd graph may keep that tensor alive.
_REMOVED = object()


class Trace:
    """The tensors of one recorded pass, and how often each parameter is used in it.

    Args:
        k: number of samples in the batch.
        leaves: by the id of each parameter in shards, the whole tensor that autograd takes its
            gradient to.
        slow: by the id of each parameter that is left to the slow path, the reason. The engine owns
            it.
        receive: called in the backward pass with a call, its output's gradient and its sample
            tensors; returns the gradient of each parameter behind the call.
        give_up: called with parameters and a reason: they take the slow path from here on.

    Attributes:
        tracked: by id, each tensor made of trainable parameters alone, with these parameters.
        constants: by id, each tensor made of neither trainable parameters nor samples.
        awaited: by the id of a parameter, how many of its uses the backward pass has still to meet.
        in_backward: whether the backward pass is under way.
    """

    def __init__(
        self,
        k: int,
        leaves: dict[int, Tensor],
        slow: dict[int, str],
        receive: Callable[["Call", Tensor, tuple[Tensor, ...]], list[Tensor | None]],
        give_up: Callable[[Iterable[nn.Parameter], str], None],
    ):
        self.k, self.leaves, self.slow = k, leaves, slow
        self.receive, self.give_up = receive, give_up
        self.tracked: dict[int, tuple[Tensor, tuple[nn.Parameter, ...]]] = {}
        self.constants: dict[int, Tensor] = {}
        self.awaited: Counter[int] = Counter()
        self.in_backward = False

    @property
    def sharded(self) -> bool:
        return bool(self.leaves)

    def leaf(self, parameter: nn.Parameter) -> Tensor:
        """What autograd takes a parameter's gradient to: the whole tensor where the parameter is in
        shards."""
        return self.leaves.get(id(parameter), parameter)

    def start(self, parameters: Iterable[nn.Parameter], buffers: Iterable[Tensor]) -> None:
        """Takes trainable parameters as tracked, and frozen parameters, slow parameters and buffers
        as constants."""
        for p in parameters:
            leaf = self.leaf(p)
            if p.requires_grad and id(p) not in self.slow:
                self.tracked[id(leaf)] = (leaf, (p,))
            else:
                self.constants[id(leaf)] = leaf
        self.constants.update((id(buffer), buffer) for buffer in buffers)

    def count(self, parameters: Iterable[nn.Parameter]) -> None:
        """Counts one more use of some parameters. The backward pass runs checkpointed parts again:
        that use is counted already."""
        if not self.in_backward:
            self.awaited.update(id(p) for p in parameters)


@dataclass(frozen=True, eq=False)
class Call:
    """One call in which tracked tensors (parameters, and what is made of parameters alone) meet
    samples."""

    trace: Trace
    function: Callable
    arguments: dict[int | str, object]
    tracked: dict[Key, Tensor]
    samples: dict[Key, Layout]
    output: Layout
    behind: dict[Key, tuple[nn.Parameter, ...]]  # the parameters behind each tracked tensor
    autocast: tuple[str, torch.dtype, bool]  # device type, dtype, enabled

    @property
    def roots(self) -> tuple[nn.Parameter, ...]:
        return unique(root for roots in self.behind.values() for root in roots)

    @property
    def rule(self) -> Callable | None:
        return RULES.get(self.function.__name__)

    def filled(self, values: dict[Key, object]) -> tuple[list, dict[str, object]]:
        """Positional and keyword arguments, with some of them replaced."""
        arguments = dict(self.arguments)
        for key, value in values.items():
            if isinstance(key, tuple):
                items = list(arguments[key[0]])
                items[key[1]] = value
                arguments[key[0]] = type(arguments[key[0]])(items)
            else:
                arguments[key] = value
        positional = [value for key, value in arguments.items() if isinstance(key, int)]
        return positional, {key: value for key, value in arguments.items() if isinstance(key, str)}

    def run(self, values: dict[Key, Tensor]):
        positional, keywords = self.filled(values)
        return self.function(*positional, **keywords)

    def value(self, key: Key):
        return at(self.arguments, key)

    def emptied(self) -> "Call":
        """The same without its sample tensors (shapes are left where a rule needs no more)."""
        shapes = not self.needs_values
        left = {
            key: self.value(key).detach().to("meta") if shapes else _REMOVED for key in self.samples
        }
        positional, keywords = self.filled(left)
        return replace(self, arguments={**dict(enumerate(positional)), **keywords})

    @property
    def needs_values(self) -> bool:
        rule = self.rule
        return rule is None or any(
            needs_values(rule, argument_name(rule, key)) for key in self.tracked
        )


class Tap(torch.autograd.Function):
    """Identity on a call's outputs; its backward pass hands the engine what the parameters'
    gradients are made of."""

    @staticmethod
    def forward(ctx, call, outputs, saved, *tensors):
        ctx.call = call
        samples = tensors[outputs : outputs + saved]
        ctx.save_for_backward(*samples)
        # A tensor of its own rather than a view, since in-place activations may follow. It shares
        # its memory with the call's output, which nobody else sees; a part of an input, which
        # others do see, is copied.
        taken = {x.untyped_storage().data_ptr() for x in samples}
        values = [
            x.clone() if x.untyped_storage().data_ptr() in taken else x.data
            for x in tensors[:outputs]
        ]
        return tuple(values) if outputs > 1 else values[0]

    @staticmethod
    def backward(ctx, *gradients):
        saved = ctx.saved_tensors
        own = ctx.call.trace.receive(ctx.call, gradients[0], (*saved, *gradients[1:]))
        return (None, None, None, *gradients, *[None] * len(saved), *own)


def at(arguments: dict, key: Key):
    return arguments[key[0]][key[1]] if isinstance(key, tuple) else arguments[key]


def unique(parameters: Iterable[nn.Parameter]) -> tuple[nn.Parameter, ...]:
    return tuple({id(p): p for p in parameters}.values())
