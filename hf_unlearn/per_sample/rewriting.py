"""Recorded calls in another form, for which there is a rule."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from .rules import Unsupported, experts_mm, spelled_out
from .trace import Call


def leading_equation(call: Call, values: dict) -> str:
    """The equation of a recorded einsum after its sample axes were moved to the front.

    Args:
        values: of the operands, by key.
    """
    operands = [values.get(key, call.arguments[key]) for key in call.arguments if key != 0]
    if not all(isinstance(x, Tensor) for x in operands):
        raise Unsupported("an einsum that takes a list")
    inputs, output = spelled_out(call.arguments[0], operands)

    def moved(letters: str, axis: int) -> str:
        return letters[axis] + letters[:axis] + letters[axis + 1 :]

    for key, layout in call.samples.items():
        inputs[key - 1] = moved(inputs[key - 1], layout.axis)
    return ",".join(inputs) + "->" + moved(output, call.output.axis)


def as_experts_mm(call: Call, values: dict) -> tuple[Call, dict]:
    """A grouped product of lines sorted by expert as `experts_mm`, with the expert of each line.

    Args:
        values: of the arguments, by key.

    Returns:
        The new call and the values of its arguments.
    """
    positional, keywords = call.filled(values)
    offsets = keywords.get("offs", positional[2] if len(positional) > 2 else None)
    if offsets is None or list(call.tracked) != [1] or 0 not in call.samples:
        return call, values
    lines = torch.arange(len(values[0]), device=offsets.device, dtype=offsets.dtype)
    experts = torch.searchsorted(offsets, lines, right=True).clamp(max=len(offsets) - 1)
    values = {0: values[0], 1: values[1], 2: experts}
    samples = {0: call.samples[0], 2: call.samples[0]}
    return replace(call, function=experts_mm, arguments=values, samples=samples), values


# By the name of the function whose call is rewritten.
REWRITTEN: dict[str, Callable[[Call, dict], tuple[Call, dict]]] = dict.fromkeys(
    ("grouped_mm", "_grouped_mm", "grouped_mm_fallback"), as_experts_mm
)
