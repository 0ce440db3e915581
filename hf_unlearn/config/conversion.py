"""Adds the fields of unlearning to plain TrainingArguments."""

import copy
import dataclasses
import functools
from dataclasses import dataclass
from typing import cast

from transformers import TrainingArguments

from .field_checks import check_fields
from .unlearn_config import UnlearnConfig

# The default of plain TrainingArguments, which is longer than most unlearning runs.
PLAIN_LOGGING_STEPS = 500


def as_unlearn_config(args: TrainingArguments | None) -> UnlearnConfig:
    """Adds the fields of unlearning to plain TrainingArguments, or to a user's subclass of them.

    The result is a copy, because a trainer changes some of its arguments, and the caller may use
    them again. It is an instance of both the same class and `UnlearnConfig`: fields, properties
    and methods of the subclass stay. Missing fields get their defaults. In plain arguments, a
    `logging_steps` of 500, their default, becomes that of UnlearnConfig, even if it was set
    explicitly, because the two cannot be told apart.

    Raises:
        TypeError: args are not TrainingArguments.
        ValueError: a subclass has a field with the name of one of UnlearnConfig's and a value that
            this field cannot have.
    """
    if args is None:
        return UnlearnConfig(output_dir="tmp_unlearn")
    if isinstance(args, UnlearnConfig):
        return copy.copy(args)
    if not isinstance(args, TrainingArguments):
        raise TypeError(
            f"args is a {type(args).__name__}, but must be an UnlearnConfig (or TrainingArguments)"
        )
    config = copy.copy(args)
    # The class of the copy is changed instead of making a new instance from its fields, because
    # __post_init__ would set up devices again, and has already parsed fields that were texts.
    config.__class__ = _unlearning(type(args))
    for field in dataclasses.fields(UnlearnConfig):
        if field.name not in vars(args):
            default = (
                field.default_factory() if field.default is dataclasses.MISSING else field.default
            )
            setattr(config, field.name, default)
    if config.logging_steps == PLAIN_LOGGING_STEPS:
        config.logging_steps = UnlearnConfig.logging_steps
    check_fields(config)
    return cast(UnlearnConfig, config)


@functools.cache
def _unlearning(kind: type[TrainingArguments]) -> type[UnlearnConfig]:
    """A class with the fields and methods of UnlearnConfig and of `kind`."""
    if issubclass(UnlearnConfig, kind):
        return UnlearnConfig
    both = type(
        kind.__name__,
        (UnlearnConfig, kind),
        {"__module__": kind.__module__, "__reduce__": _reduced},
    )
    # as a dataclass, whose to_dict has the fields of both
    return dataclass(init="__dataclass_fields__" in vars(kind), repr=False, eq=False)(both)


def _reduced(config: UnlearnConfig) -> tuple:
    """How to pickle an instance of a class made by `_unlearning`, which no module holds."""
    return _remade, (type(config).__bases__[1],), vars(config)


def _remade(kind: type[TrainingArguments]) -> UnlearnConfig:
    return object.__new__(_unlearning(kind))
