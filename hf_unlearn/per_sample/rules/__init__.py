"""Per-sample weight gradients: one rule for each function of torch that combines a parameter with
samples.

A rule has the signature of its function, with k and the output's gradient B in front. For each
argument that may be a weight, it returns a function that makes the `Rows` of its per-sample
gradients G_n. That function is called only if the argument trains. Samples lie along the leading
axis, alone or with other axes folded into it (Swin's windows). Where they do not (`layout.py`), the
tensors are brought into that form first. k is the number of samples, T all positions between the
sample axis and the channels, and s the number of leading indices per sample.
"""

import inspect
from collections.abc import Callable
from functools import cache

import torch

from . import convolutions, elementwise, layers, products
from .common import Unsupported, by_sample, own_values, positions
from .elementwise import (
    add,
    assigned,
    cat,
    copied,
    copy,
    div,
    expand,
    mul,
    repeat,
    rsub,
    stack,
    sub,
)
from .products import experts_mm, spelled_out

__all__ = [
    "ANY_AXIS",
    "ELEMENTWISE",
    "LIKE",
    "RULES",
    "Unsupported",
    "argument_name",
    "by_sample",
    "experts_mm",
    "needs_values",
    "out_of_place",
    "own_values",
    "positions",
    "spelled_out",
]

# By name, because `torch.add`, `Tensor.add` and `x + y` are three functions with one meaning.
RULES: dict[str, Callable] = products.RULES | layers.RULES | convolutions.RULES | elementwise.RULES
# Functions whose rules hold whatever the axis of the samples was.
ANY_AXIS = ("linear", "matmul", "__matmul__", "einsum", "embedding", "layer_norm", "rms_norm")
ELEMENTWISE = (add, sub, rsub, mul, div)
# Rules that need only the shapes of the samples, not their values.
SHAPES_ONLY = (add, sub, rsub, copy, expand, repeat, cat, stack)
# Functions that use only the dtype or the shape of the arguments after the first.
LIKE = ("type_as", "to", "view_as", "reshape_as", "result_type", "is_same_size", "promote_types")


def needs_values(rule: Callable, argument: str | tuple[str, int]) -> bool:
    """Whether a rule needs the values of the samples for the gradient of one argument."""
    return rule not in SHAPES_ONLY and argument != "bias"


@cache
def _arguments(rule: Callable) -> list[inspect.Parameter]:
    return list(inspect.signature(rule).parameters.values())[2:]


def argument_name(rule: Callable, key: int | str | tuple[int | str, int]) -> str | tuple:
    """A rule's name for the argument with a key: a position, a name, or either with an index.

    The index selects a member of a list.
    """
    if isinstance(key, tuple):
        return argument_name(rule, key[0]), key[1]
    if isinstance(key, str):
        return key
    for at, parameter in enumerate(_arguments(rule)):
        if parameter.kind == inspect.Parameter.VAR_POSITIONAL:
            return parameter.name, key - at
        if at == key:
            return parameter.name
    return ""


def out_of_place(function: Callable) -> Callable:
    """The function that returns what an in-place function writes to its first argument."""
    name = function.__name__
    if name == "__setitem__":
        return assigned
    if name == "copy_":
        return copied
    name = name.replace("__i", "__", 1) if name.startswith("__i") else name.removesuffix("_")
    return getattr(torch.Tensor, name)
