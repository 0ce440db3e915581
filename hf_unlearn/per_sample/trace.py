"""The record of one pass: the kind of each tensor, and each call on parameters and samples.

The recorder writes it in the forward pass, and the engine reads it in the backward pass.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .layouts.layout import Layout
from .rules import RULES, argument_name, needs_values

# Position or name of an argument; with an index, a member of a list.
Key = int | str | tuple[int | str, int]
# Stands for a sample tensor in a recorded call: only the autograd graph may keep the tensor alive.
_REMOVED = object()


class Trace:
    """The tensors of one recorded pass, and how often each parameter is used in it.

    Args:
        k: number of samples in the batch.
        leaves: for each sharded parameter, by id, the whole tensor whose gradient autograd
            computes.
        slow: for each parameter that takes the slow path, by id, the reason. The engine owns this.
        receive: called in the backward pass with a call, its output's gradient and its sample
            tensors; returns the gradient of each parameter behind the call.
        give_up: called with parameters and a reason: they take the slow path from here on.

    Attributes:
        tracked: by id, each tensor computed from trainable parameters alone, and these parameters.
        constants: by id, each tensor computed from neither trainable parameters nor samples.
        awaited: by the id of a parameter, how many of its uses the backward pass has not reached.
        in_backward: whether the backward pass is running.
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
        """The tensor whose gradient autograd computes: the whole tensor of a sharded parameter."""
        return self.leaves.get(id(parameter), parameter)

    def start(self, parameters: Iterable[nn.Parameter], buffers: Iterable[Tensor]) -> None:
        """Notes trainable parameters as tracked, all other parameters and buffers as constant.

        Slow parameters are constant, too.
        """
        for p in parameters:
            leaf = self.leaf(p)
            if p.requires_grad and id(p) not in self.slow:
                self.tracked[id(leaf)] = (leaf, (p,))
            else:
                self.constants[id(leaf)] = leaf
        self.constants.update((id(buffer), buffer) for buffer in buffers)

    def count(self, parameters: Iterable[nn.Parameter]) -> None:
        """Counts one more use of some parameters.

        The backward pass runs checkpointed parts again; their uses are already counted.
        """
        if not self.in_backward:
            self.awaited.update(id(p) for p in parameters)


@dataclass(frozen=True, eq=False)
class Call:
    """One call on both samples and tracked tensors (parameters, or computed from them alone).

    arguments: by position or name.
    tracked: the tracked tensors among them.
    samples: the layouts of the arguments that hold samples.
    behind: the parameters that each tracked tensor is computed from.
    autocast: device type, dtype, and whether it is enabled.
    """

    trace: Trace
    function: Callable
    arguments: dict[int | str, Any]
    tracked: dict[Key, Tensor]
    samples: dict[Key, Layout]
    output: Layout
    behind: dict[Key, tuple[nn.Parameter, ...]]
    autocast: tuple[str, torch.dtype, bool]

    @property
    def roots(self) -> tuple[nn.Parameter, ...]:
        """All parameters behind the call."""
        return unique(root for roots in self.behind.values() for root in roots)

    @property
    def rule(self) -> Callable | None:
        """The rule for per-sample gradients of this function, if there is one."""
        return RULES.get(self.function.__name__)

    def filled(self, values: Mapping[Any, Any]) -> tuple[list, dict[str, Any]]:
        """Positional and keyword arguments, some of them replaced by key."""
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

    def run(self, values: dict[Key, Tensor]) -> Any:
        """The output of the call, with some arguments replaced by key."""
        positional, keywords = self.filled(values)
        return self.function(*positional, **keywords)

    def value(self, key: Key) -> Any:
        return at(self.arguments, key)

    def emptied(self) -> "Call":
        """The same call without its sample tensors; it keeps their shapes if a rule needs these."""
        shapes = not self.needs_values
        replaced = {
            key: self.value(key).detach().to("meta") if shapes else _REMOVED for key in self.samples
        }
        positional, keywords = self.filled(replaced)
        return replace(self, arguments={**dict(enumerate(positional)), **keywords})

    @property
    def needs_values(self) -> bool:
        """Whether per-sample gradients depend on the values of the samples, not only on B."""
        rule = self.rule
        return rule is None or any(
            needs_values(rule, argument_name(rule, key)) for key in self.tracked
        )


class Tap(torch.autograd.Function):
    """Identity on a call's outputs, whose backward pass gives the engine X and B."""

    @staticmethod
    def forward(
        ctx: Any, call: Call, outputs: int, saved: int, *tensors: Tensor
    ) -> Tensor | tuple[Tensor, ...]:
        """tensors: the outputs, the sample tensors to save, and the parameters behind the call."""
        ctx.call = call
        samples = tensors[outputs : outputs + saved]
        ctx.save_for_backward(*samples)
        # New tensors rather than views, because in-place activations may follow. They share the
        # memory of the call's outputs, which nothing else uses. An output that shares the memory of
        # an input is copied.
        inputs = {x.untyped_storage().data_ptr() for x in samples}
        values = [
            x.clone() if x.untyped_storage().data_ptr() in inputs else x.data
            for x in tensors[:outputs]
        ]
        return tuple(values) if outputs > 1 else values[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        root_gradients = ctx.call.trace.receive(ctx.call, gradients[0], (*saved, *gradients[1:]))
        return (None, None, None, *gradients, *[None] * len(saved), *root_gradients)


def at(arguments: dict, key: Key) -> Any:
    """The argument with a key."""
    return arguments[key[0]][key[1]] if isinstance(key, tuple) else arguments[key]


def unique(parameters: Iterable[nn.Parameter]) -> tuple[nn.Parameter, ...]:
    """The parameters without repetitions, in order."""
    return tuple({id(p): p for p in parameters}.values())
