"""Which values the fields of `UnlearnConfig` may have, and in which form they are kept."""

import dataclasses
import json
import math
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from transformers import Seq2SeqTrainingArguments


class Range(NamedTuple):
    """The numbers that a field may hold.

    Attributes:
        kind: `numbers.Integral` or `numbers.Real`.
        holds: whether a number of this kind is possible.
        meaning: what the field must be, in words.
    """

    kind: type
    holds: Callable[[float], bool]
    meaning: str


COUNT = Range(numbers.Integral, lambda n: n >= 1, "a whole number, at least 1")
NUMBERS = {
    "per_device_retain_batch_size": COUNT,
    "per_device_previous_batch_size": COUNT,
    "check_steps": COUNT,
    "check_samples": COUNT,
    "max_skipped_steps": COUNT,
    "update_sketch_rank": Range(
        numbers.Integral, lambda n: n >= 0, "a whole number; 0 keeps the whole update"
    ),
    "alpha": Range(
        numbers.Real,
        lambda x: 0 <= x < 1,
        "a number in [0, 1): at 1 nothing would be forgotten",
    ),
    "loss_temperature": Range(
        numbers.Real, lambda x: 0 < x < math.inf, "a number above 0; 1 leaves the loss as it is"
    ),
    "unheard_words": Range(
        numbers.Real, lambda x: 0 <= x <= 1, "a share of positions, from 0 to 1"
    ),
    "max_drift": Range(
        numbers.Real, lambda x: x > 0, "a number above 0: at 0 no step could be taken"
    ),
    "max_forget_loss": Range(
        numbers.Real, lambda x: 0 < x < math.inf, "a number above 0, or None for no limit"
    ),
    "frozen_cache_gb": Range(
        numbers.Real, lambda x: x >= 0, "a number of gigabytes, or 0 to keep nothing"
    ),
}
# None stands for no limit.
OPTIONAL = ("max_forget_loss",)
# `granularity` and `inner_products` are checked where they are used.
CHOICES = ("forget_objective", "silence_texts", "step_control")


def check_fields(config: Seq2SeqTrainingArguments) -> None:
    """Checks the fields of unlearning, and brings them into the form that they are kept in.

    Raises:
        ValueError: a field has a value that it cannot have.
    """
    _check_numbers(config)
    _check_choices(config)
    _normalise(config)


def _check_numbers(config: Seq2SeqTrainingArguments) -> None:
    """Raises ValueError if a field of `NUMBERS` has a value that it cannot have."""
    for name, (kind, holds, meaning) in NUMBERS.items():
        value = getattr(config, name)
        if value is None and name in OPTIONAL:
            continue
        if not isinstance(value, kind) or not holds(value):
            raise ValueError(f"{name} is {value!r}, but must be {meaning}")


def _check_choices(config: Seq2SeqTrainingArguments) -> None:
    """Raises ValueError if a field of `CHOICES` has a value that is not among its choices."""
    for field in dataclasses.fields(config):
        value, choices = getattr(config, field.name), field.metadata.get("choices", ())
        if field.name in CHOICES and value not in choices:
            meant = " or ".join(map(repr, choices))
            raise ValueError(f"{field.name} is {value!r}, but must be {meant}")


class Normalised(Protocol):
    """The fields of `UnlearnConfig` that may be given in several forms."""

    hide_names: Any
    method_kwargs: Any


def _normalise(config: Normalised) -> None:
    """Converts a single name to a list, and JSON to a dict.

    Raises:
        ValueError: `method_kwargs` is not a dict.
    """
    hide_names = config.hide_names
    names = [hide_names] if isinstance(hide_names, str | int) else hide_names
    config.hide_names = [str(name) for name in names or []]
    config.method_kwargs = _as_dict(config.method_kwargs)


def _as_dict(value: dict | str | None) -> dict | None:
    """Reads a dict that was written as JSON on a command line."""
    try:
        read = json.loads(value) if isinstance(value, str) else value
    except json.JSONDecodeError:
        read = value
    if read is not None and not isinstance(read, dict):
        raise ValueError(
            f"method_kwargs is {value!r}, but must be a dict, written as JSON on a command line: "
            f"'{{\"beta\": 0.5}}'"
        )
    return read
