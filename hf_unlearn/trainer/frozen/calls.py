"""Turns the arguments of a module's call into a key for each sample, and replaces calls within a
context."""

import contextlib
import functools
import hashlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves

from .store import as_bytes

# Flags of transformers' models that ask for the outputs of all layers.
MORE_OUTPUTS = ("output_hidden_states", "output_attentions")
# Flags that change nothing in the layers.
FORM_OF_OUTPUT = (*MORE_OUTPUTS, "return_dict", "use_cache")
# Arguments that modules take and do not use. `generate` hands all that it has to an encoder.
UNUSED = {"WhisperEncoder": ("attention_mask", "labels")}


def named_arguments(
    module: nn.Module, forward: Callable, args: tuple, kwargs: dict
) -> dict[str, Any]:
    """The arguments of a call of a module by name, without those that it does not use."""
    signature = inspect.signature(forward)
    named = dict(signature.bind(*args, **kwargs).arguments)
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            named.update(named.pop(name, {}))
    unused = UNUSED.get(type(module).__name__, ())
    return {name: value for name, value in named.items() if name not in unused}


def is_plain(value: Any) -> bool:
    """Whether a value consists only of tensors, numbers and texts."""
    if type(value) is dict:
        return all(map(is_plain, value.values()))
    if type(value) in (tuple, list):
        return all(map(is_plain, value))
    return isinstance(value, Tensor | bool | int | float | str | None)


def outputs_asked_for(module: nn.Module, arguments: dict[str, Any]) -> list[str]:
    """Those of `MORE_OUTPUTS` that a call asks for."""
    config = getattr(module, "config", None)
    return [n for n in MORE_OUTPUTS if arguments.get(n) or getattr(config, n, False)]


def is_repeatable(arguments: dict[str, Any]) -> bool:
    """Whether a call depends on nothing but the values of tensors, numbers and texts, so that equal
    calls have equal outputs."""
    # Other objects hold state, such as the keys and values of a text that is being generated.
    if not is_plain(arguments):
        return False
    tensors = [x for x in tree_leaves(arguments) if isinstance(x, Tensor)]
    # An input that requires a gradient must go through the module.
    return bool(tensors) and tensors[0].ndim > 0 and not any(x.requires_grad for x in tensors)


def keys_of(arguments: dict[str, Any], device: torch.device, by_count: bool = False) -> list[bytes]:
    """A key for each sample of a call, made of all values that it gets, and of whether autocast is
    on.

    Args:
        arguments: of the call, by name. The first tensor among them has a row for each sample.
        device: where the module computes.
        by_count: whether a sample has another key in a batch of another size.
    """
    kind = device.type
    autocast = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind)
    # `generate` names flags that training leaves out.
    inputs = {
        name: value
        for name, value in arguments.items()
        if value is not None and value is not False and name not in FORM_OF_OUTPUT
    }
    leaves, structure = tree_flatten(inputs)
    samples = len(next(x for x in leaves if isinstance(x, Tensor)))
    of_batch = f"{autocast} {samples if by_count else None} {structure}"
    shared, rows = hashlib.blake2b(of_batch.encode(), digest_size=16), []
    for value in leaves:
        if not isinstance(value, Tensor):
            shared.update(repr(value).encode())
            continue
        shared.update(f"{value.dtype}{tuple(value.shape[1:])}".encode())
        if value.ndim and len(value) == samples:
            rows.append(value.detach().cpu())
        else:
            shared.update(as_bytes(value.detach().cpu()))
    keys = []
    for n in range(samples):
        digest = shared.copy()
        for values in rows:
            digest.update(as_bytes(values[n]))
        keys.append(digest.digest())
    return keys


@contextlib.contextmanager
def replacing_forward(module: nn.Module, call: Callable) -> Iterator[None]:
    """Within this context, calls of a module go to `call(module, forward, args, kwargs)`."""
    instance_forward = vars(module).get("forward")
    forward = module.forward

    @functools.wraps(forward)
    def replaced(*args: Any, **kwargs: Any) -> Any:
        return call(module, forward, args, kwargs)

    module.forward = replaced
    try:
        yield
    finally:
        if instance_forward is None:
            del module.forward
        else:
            module.forward = instance_forward
