"""UnlearnConfig: Seq2SeqTrainingArguments and what unlearning needs beside them."""

import copy
import dataclasses
import functools
import json
from dataclasses import dataclass, field

from transformers import Seq2SeqTrainingArguments, TrainingArguments

from .privacy.redaction import without_names


@dataclass
class UnlearnConfig(Seq2SeqTrainingArguments):
    """Arguments of `UnlearnTrainer`. Every field of `Seq2SeqTrainingArguments` keeps its meaning.

    `per_device_train_batch_size` counts forget samples per micro-batch;
    `gradient_accumulation_steps`, `max_steps` and epochs count over the forget set.
    `resume_from_checkpoint` is what `UnlearnTrainer.train` resumes from: a folder, "true" for the
    last complete checkpoint of `output_dir`, or "auto" for the same if there is one.
    `auto_find_batch_size` shrinks the forget batch or the retain batch, whichever does not fit into
    memory, says so, and begins again from the weights at the start; the fields then hold the sizes
    that fit. (One process only.)
    """

    _argument_group_name = (
        "unlearning and training (those of transformers' Seq2SeqTrainingArguments first)"
    )

    method: str = field(
        default="orthograd",
        metadata={
            "help": "The method of unlearning, by its name in hf_unlearn.METHODS, such as "
            "orthograd, gradient_difference or "
            "scrub; the README lists them all (in Python: or a Method instance)."
        },
    )
    alpha: float = field(
        default=0.5,
        metadata={"help": "Weight of the retain gradient against the forget gradient, in [0, 1)."},
    )
    method_kwargs: dict | str | None = field(
        default=None,
        metadata={
            "help": "Further values of the method in the place of its published defaults, such as "
            "{'temperature': 2} for "
            "scrub; on a command line as JSON."
        },
    )
    granularity: str = field(
        default="parameter",
        metadata={
            "help": "What orthograd projects in: each 'parameter' tensor, or the whole 'model' at "
            "once.",
            "choices": ["parameter", "model"],
        },
    )
    per_device_retain_batch_size: int = field(
        default=16, metadata={"help": "Retain samples k per optimizer step and process."}
    )
    inner_products: str | None = field(
        default=None,
        metadata={
            "help": "How orthograd gets the inner products of per-sample gradients: 'materialise' "
            "a few lines of them at "
            "a time; 'ghost', without making any; or 'fused', tiles of them on chip (on GPUs with "
            "fast float64); where one "
            "cannot be had, the first. Default: the cheapest for each parameter.",
            "choices": ["materialise", "ghost", "fused"],
        },
    )
    freeze_batch_norm: bool = field(
        default=True,
        metadata={
            "help": "Batch normalisation keeps its running statistics, so that samples do not "
            "interact. False: it works "
            "as in training (as published methods do), for methods that need no per-sample "
            "gradients."
        },
    )
    freeze_randomness: bool = field(
        default=True,
        metadata={
            "help": "What is random in the model (dropout, LayerDrop, stochastic depth, "
            "SpecAugment, NEFTune's noise) is off "
            "while a method that projects gradients (orthograd, pcgrad, pgu, ...) computes them, "
            "so that all are of the "
            "network that is evaluated. False: it is on, and every pass over a batch draws the "
            "same random numbers. Methods "
            "without a projection train as Trainer does."
        },
    )
    stop_when: str | None = field(
        default=None,
        metadata={
            "help": "Stop when this holds at a check, e.g. 'forget_wer >= 90' (<split>_<metric> of "
            "eval_dataset, on the scale "
            "of compute_metrics: this project's own give percent, most others fractions)."
        },
    )
    abort_when: str | None = field(
        default=None,
        metadata={
            "help": "Abort when this holds at a check, e.g. 'test_wer > 30', and restore the best "
            "checked model."
        },
    )
    check_steps: int = field(
        default=10, metadata={"help": "Optimizer steps between two checks of the stopping rules."}
    )
    check_samples: int = field(
        default=64, metadata={"help": "Samples of each split that a check evaluates at most."}
    )
    max_skipped_steps: int = field(
        default=3,
        metadata={
            "help": "End the training when so many optimizer steps in a row were skipped, since a "
            "loss or gradient was not "
            "finite."
        },
    )
    hide_names: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Names and ids of forgotten persons: salted hashes take their place in all "
            "that is pushed to the Hub, and "
            "trackers (report_to) do not get them. The recipes know them."
        },
    )
    name_forgotten: bool = field(
        default=False,
        metadata={
            "help": "Name the forgotten persons in the card, in all that is pushed to the Hub, and "
            "to trackers."
        },
    )
    logging_steps: float = field(
        default=1,
        metadata={
            "help": "Optimizer steps between two log entries (a run of unlearning is short)."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        self._check_own()

    def _check_own(self) -> None:
        """Brings the fields of this class into their form. Raises ValueError for values that cannot
        be."""
        names = (
            [self.hide_names] if isinstance(self.hide_names, str | int) else self.hide_names or []
        )
        self.hide_names = [str(name) for name in names]  # one name may come as no list
        for name in (
            "per_device_retain_batch_size",
            "check_steps",
            "check_samples",
            "max_skipped_steps",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least 1")
        if not 0 <= self.alpha < 1:
            raise ValueError(
                f"alpha is {self.alpha}, but must be in [0, 1): at 1 nothing would be forgotten"
            )
        self.method_kwargs = _as_dict(self.method_kwargs)

    def to_dict(self) -> dict:
        """For trackers and results: without `hide_names`, and, unless `name_forgotten`, without
        these names in texts, since trackers upload it."""
        given = {**super().to_dict(), "method": str(self.method)}
        del given["hide_names"]
        return given if self.name_forgotten else without_names(given, self.hide_names)


def _as_dict(given: dict | str | None) -> dict | None:
    """A dict that a command line has written as JSON."""
    try:
        read = json.loads(given) if isinstance(given, str) else given
    except json.JSONDecodeError:
        read = given
    if read is not None and not isinstance(read, dict):
        raise ValueError(
            f"method_kwargs is {given!r}, but must be a dict, on a command line in JSON: "
            f"'{{\"beta\": 0.5}}'"
        )
    return read


PLAIN_LOGGING_STEPS = 500  # Trainer's default: most runs of unlearning are shorter


def as_unlearn_config(args) -> UnlearnConfig:
    """Plain TrainingArguments, or a user's subclass of them, with the fields of unlearning beside
    their own.

    The result is a copy that is an instance of the same class and of `UnlearnConfig`: fields,
    properties and methods of the subclass stay. Fields that it lacks get their defaults;
    `logging_steps` of 500, which is the default of plain arguments, becomes that of UnlearnConfig.

    Raises:
        TypeError: args are no TrainingArguments.
        ValueError: a subclass has a field of the same name as one of UnlearnConfig, with a value
            that it cannot have.
    """
    if args is None:
        return UnlearnConfig(output_dir="tmp_unlearn")
    if isinstance(args, UnlearnConfig):
        return args
    if not isinstance(args, TrainingArguments):
        raise TypeError(
            f"args is a {type(args).__name__}, but must be an UnlearnConfig (or TrainingArguments)"
        )
    config = copy.copy(args)
    # no new instance from the fields: __post_init__ would start devices again, and read what is no
    # longer text
    config.__class__ = _unlearning(type(args))
    for own in dataclasses.fields(UnlearnConfig):
        if own.name not in vars(args):
            default = own.default_factory() if own.default is dataclasses.MISSING else own.default
            setattr(config, own.name, default)
    if config.logging_steps == PLAIN_LOGGING_STEPS:
        config.logging_steps = UnlearnConfig.logging_steps
    config._check_own()
    return config


@functools.cache
def _unlearning(kind: type[TrainingArguments]) -> type[UnlearnConfig]:
    """UnlearnConfig with the fields and methods of a class of TrainingArguments."""
    if issubclass(UnlearnConfig, kind):
        return UnlearnConfig
    both = type(
        kind.__name__,
        (UnlearnConfig, kind),
        {"__module__": kind.__module__, "__reduce__": _reduced},
    )
    # so that to_dict has the fields of both
    return dataclass(init="__dataclass_fields__" in vars(kind), repr=False, eq=False)(both)


def _reduced(config: UnlearnConfig) -> tuple:
    """What pickle writes of an instance of a class that no module holds."""
    return _remade, (type(config).__bases__[1],), vars(config)


def _remade(kind: type[TrainingArguments]) -> UnlearnConfig:
    return object.__new__(_unlearning(kind))
