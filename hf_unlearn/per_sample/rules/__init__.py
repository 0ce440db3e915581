"""Per-sample weight gradients, one rule for each function of torch that a parameter can meet the
samples in.

A rule has the signature of its function with k and the output's gradient B put in front, and
returns, for each argument that may be a weight, a function that makes the `Rows` of its per-sample
gradients G_n (called only for what trains). Samples lie along the leading axis, alone or with other
axes folded into it (Swin's windows); where they do not (`layout.py`), the tensors are brought into
that form first. k is the number of samples, T all positions between the sample axis and the
channels.
"""

import inspect
from collections.abc import Callable
from functools import cache

import torch

from . import elementwise, layers, products
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
from .products import as_experts_mm, leading_equation

__all__ = [
    "ANY_AXIS", "ELEMENTWISE", "LIKE", "REWRITTEN", "RULES", "Unsupported", "argument_name", "by_sample",
    "leading_equation", "needs_values", "out_of_place", "own_values", "positions",
]  # fmt: skip

# By name, since `torch.add`, `Tensor.add` and `x + y` are three functions with one meaning.
RULES: dict[str, Callable] = products.RULES | layers.RULES | elementwise.RULES
# Rules that hold wherever the sample axis is moved from.
ANY_AXIS = ("linear", "matmul", "__matmul__", "einsum", "embedding", "layer_norm", "rms_norm")
ELEMENTWISE = (add, sub, rsub, mul, div)
# Rules that look at the shapes of the samples alone, and arguments of other rules for which that is
# so.
SHAPES_ONLY = (add, sub, rsub, copy, expand, repeat, cat, stack)
# Functions that only look at the type or the shape of what comes after the first argument.
LIKE = ("type_as", "to", "view_as", "reshape_as", "result_type", "is_same_size", "promote_types")
# Functions whose calls are recorded as others.
REWRITTEN = dict.fromkeys(("grouped_mm", "_grouped_mm", "grouped_mm_fallback"), as_experts_mm)


def needs_values(rule: Callable, argument: str | tuple[str, int]) -> bool:
    """Whether a rule has to see the values of the samples for the gradient of one argument."""
    return rule not in SHAPES_ONLY and argument != "bias"


@cache
def _arguments(rule: Callable) -> list[inspect.Parameter]:
    return list(inspect.signature(rule).parameters.values())[2:]


def argument_name(rule: Callable, key) -> str | tuple[str, int]:
    """What a rule calls the argument at a position or of a name (with an index: a member of a
    list)."""
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
    """The function that makes a new tensor of what an in-place function writes into its first
    argument."""
    name = function.__name__
    if name == "__setitem__":
        return assigned
    if name == "copy_":
        return copied
    name = name.replace("__i", "__", 1) if name.startswith("__i") else name.removesuffix("_")
    return getattr(torch.Tensor, name)
