"""Inputs belong to the caller: a model gets copies of what it may write into (SpecAugment masks its
input in place)."""

import contextlib
import copy
from collections import UserDict
from collections.abc import Iterator

from torch import Tensor, nn


def own_copy(value):
    """The same with copies of all tensors in it."""
    if isinstance(value, Tensor):
        return value.clone()
    # not what holds a model's own states, such as a cache
    if type(value) is dict or isinstance(value, UserDict):
        copied = copy.copy(value)
        copied.update({name: own_copy(item) for name, item in value.items()})
        return copied
    if type(value) in (list, tuple):
        return type(value)(map(own_copy, value))
    return value


@contextlib.contextmanager
def inputs_kept(model: nn.Module) -> Iterator[None]:
    """Within this context every call of the model gets copies."""
    handle = model.register_forward_pre_hook(
        lambda _, inputs, keywords: (own_copy(inputs), own_copy(keywords)), with_kwargs=True
    )
    try:
        yield
    finally:
        handle.remove()
