"""Copies of inputs for models that write to them (SpecAugment masks its input in place)."""

import contextlib
import copy
from collections import UserDict
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn


def own_copy(value: Any) -> Any:
    """The value with copies of all tensors in it, in dicts, lists and tuples, too."""
    if isinstance(value, Tensor):
        return value.clone()
    # But no objects that hold a model's own state, such as a cache.
    if type(value) is dict or isinstance(value, UserDict):
        copied = copy.copy(value)
        copied.update({name: own_copy(item) for name, item in value.items()})
        return copied
    if type(value) in (list, tuple):
        return type(value)(map(own_copy, value))
    return value


@contextlib.contextmanager
def inputs_kept(model: nn.Module) -> Iterator[None]:
    """Gives the model copies of its inputs in every call within this context."""
    handle = model.register_forward_pre_hook(
        lambda _, inputs, keywords: (own_copy(inputs), own_copy(keywords)), with_kwargs=True
    )
    try:
        yield
    finally:
        handle.remove()
