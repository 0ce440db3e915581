"""UnlearnConfig: the training arguments, extended by the options of unlearning."""

import copy
import dataclasses
import difflib
import functools
import json
import math
import numbers
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from transformers import Seq2SeqTrainingArguments, TrainingArguments

from .privacy.redaction import without_names


@dataclass
class UnlearnConfig(Seq2SeqTrainingArguments):
    """Arguments of `UnlearnTrainer`. Every field of `Seq2SeqTrainingArguments` keeps its meaning.

    `per_device_train_batch_size` is the number of forget samples per micro-batch.
    `gradient_accumulation_steps`, `max_steps` and epochs refer to the forget set.
    `resume_from_checkpoint` is what `UnlearnTrainer.train` resumes from: a folder, "true" for the
    last complete checkpoint of `output_dir`, or "auto" for the same if there is one.
    `auto_find_batch_size` shrinks the forget batch or the retain batch, whichever does not fit into
    memory, logs it, and starts again from the initial weights; afterwards the fields hold the sizes
    that fit. It works in a single process only.

    Raises:
        ValueError: a field has a value that it cannot have.
    """

    _argument_group_name = (
        "unlearning and training (those of transformers' Seq2SeqTrainingArguments first)"
    )

    method: str = field(
        default="orthograd",
        metadata={
            "help": "The unlearning method, by its name in hf_unlearn.METHODS, such as orthograd, "
            "gradient_difference or scrub; docs/methods.md lists them all. In Python, a Method "
            "instance works too."
        },
    )
    alpha: float = field(
        default=0.5,
        metadata={
            "help": "Weight of the retain gradient relative to the forget gradient, in [0, 1)."
        },
    )
    method_kwargs: dict | str | None = field(
        default=None,
        metadata={
            "help": "Values that replace further defaults of the method, such as "
            "{'temperature': 2} for scrub. Written as JSON on a command line."
        },
    )
    loss_temperature: float = field(
        default=1.0,
        metadata={
            "help": "Divides the logits by this number in the losses of a step, forget and retain. "
            "A pretrained model is nearly certain of most tokens, which then have no gradient; "
            "with 3, all tokens have one. Evaluation is not changed."
        },
    )
    forget_objective: str = field(
        default="loss",
        metadata={
            "help": "What a step raises on the forget samples. 'loss': the loss of their labels, "
            "as published. 'silence': the log-probability that the text ends here, at every "
            "position of the labels, so that the model writes nothing for such audio. Steps of "
            "orthograd are then also orthogonal to the gradient of each retain sample's silence.",
            "choices": ["loss", "silence"],
        },
    )
    granularity: str = field(
        default="parameter",
        metadata={
            "help": "Whether orthograd projects the gradient of each 'parameter' tensor by itself, "
            "or that of the whole 'model' at once.",
            "choices": ["parameter", "model"],
        },
    )
    per_device_retain_batch_size: int = field(
        default=16,
        metadata={"help": "Number of retain samples k per optimizer step in each process."},
    )
    per_device_previous_batch_size: int = field(
        default=16,
        metadata={
            "help": "Number of samples of previous_forget_dataset per optimizer step in each "
            "process."
        },
    )
    save_update_sketch: bool = field(
        default=False,
        metadata={
            "help": "Write _forget_update.safetensors at the end of training: by how much the run "
            "has changed each trained weight. Later requests can keep what is forgotten here "
            "forgotten with it, without the samples (previous_updates)."
        },
    )
    update_sketch_rank: int = field(
        default=0,
        metadata={
            "help": "save_update_sketch: keep only this many singular directions of each weight "
            "matrix's update; 0: all of it."
        },
    )
    inner_products: str | None = field(
        default=None,
        metadata={
            "help": "How orthograd computes the inner products of per-sample gradients: "
            "'materialise' writes out a few lines of the gradients at a time, 'ghost' never writes "
            "them out, and 'fused' computes tiles of them on chip (on GPUs with fast float64). "
            "'ghost' and 'fused' fall back to 'materialise' where they are unavailable. Default: "
            "the cheapest for each parameter.",
            "choices": ["materialise", "ghost", "fused"],
        },
    )
    freeze_batch_norm: bool = field(
        default=True,
        metadata={
            "help": "Batch normalisation uses its running statistics, so that samples do not "
            "interact. With False it works as in ordinary training, as in published methods; this "
            "excludes methods that need per-sample gradients."
        },
    )
    freeze_randomness: bool = field(
        default=True,
        metadata={
            "help": "Methods that project gradients (orthograd, pcgrad, pgu, ...) compute them "
            "without the model's randomness (dropout, LayerDrop, stochastic depth, SpecAugment, "
            "NEFTune's noise), so that all gradients belong to the network that is evaluated. With "
            "False, randomness stays on, and every pass over a batch draws the same random "
            "numbers. Methods without a projection train with randomness, as Trainer does."
        },
    )
    stop_when: str | None = field(
        default=None,
        metadata={
            "help": "Stop when this rule holds at a check, e.g. 'forget_wer >= 25': "
            "<split>_<metric> of eval_dataset, on the scale of compute_metrics. This project's own "
            "metrics are in percent, most others are fractions. A rule that holds before the first "
            "step is an error."
        },
    )
    abort_when: str | None = field(
        default=None,
        metadata={
            "help": "Abort when this rule holds at a check, e.g. 'test_wer > 30', and restore the "
            "best checked model. In recipes, 'earlier_wer < 30' is about the worst of the earlier "
            "requests, and 'earlier_1_wer < 30' about the first."
        },
    )
    check_steps: int = field(
        default=10,
        metadata={"help": "Number of optimizer steps between two checks of the stopping rules."},
    )
    check_samples: int = field(
        default=64,
        metadata={"help": "Maximum number of samples of each split that a check evaluates."},
    )
    step_control: str = field(
        default="none",
        metadata={
            "help": "'drift' chooses the length of every step: the longest one along the "
            "optimizer's step after which no sample of the retain batch has a loss more than "
            "max_drift higher than before. learning_rate is then only the first try. 'none': the "
            "optimizer's step is taken as it is.",
            "choices": ["none", "drift"],
        },
    )
    max_drift: float = field(
        default=0.02,
        metadata={
            "help": "step_control='drift': by how much a step may raise the loss of any sample of "
            "the retain batch."
        },
    )
    frozen_cache_gb: float = field(
        default=4.0,
        metadata={
            "help": "Where the first part of the model is frozen (a decoder-only run, frozen first "
            "layers), its outputs are computed once for each sample and kept for later steps, "
            "checks and evaluation: up to this many gigabytes in each process, of which one is in "
            "memory and the rest in a temporary file. The values are the same. 0 computes them in "
            "every pass."
        },
    )
    max_skipped_steps: int = field(
        default=3,
        metadata={
            "help": "End the training after this many skipped optimizer steps in a row. A step is "
            "skipped if its loss or gradient is not finite."
        },
    )
    hide_names: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Names and ids of forgotten persons. Salted hashes replace them in everything "
            "that is pushed to the Hub, and trackers (report_to) never get them. Recipes fill this "
            "in themselves."
        },
    )
    name_forgotten: bool = field(
        default=False,
        metadata={
            "help": "Name the forgotten persons in the card, in everything that is pushed to the "
            "Hub, and to trackers."
        },
    )
    logging_steps: float = field(
        default=1,
        metadata={
            "help": "Number of optimizer steps between two log entries. The default is 1 because "
            "unlearning runs are short."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        self._check_own()

    def _check_own(self) -> None:
        """Checks the fields of this class, and converts single values to lists and JSON to dicts.

        Raises:
            ValueError: a field has a value that it cannot have.
        """
        # a single name may be given without a list
        names = [self.hide_names] if isinstance(self.hide_names, str | int) else self.hide_names
        self.hide_names = [str(name) for name in names or []]
        for name in (
            "per_device_retain_batch_size",
            "per_device_previous_batch_size",
            "check_steps",
            "check_samples",
            "max_skipped_steps",
        ):
            given = getattr(self, name)
            if not isinstance(given, numbers.Integral) or given < 1:
                raise ValueError(f"{name} is {given!r}, but must be a whole number, at least 1")
        rank = self.update_sketch_rank
        if not isinstance(rank, numbers.Integral) or rank < 0:
            raise ValueError(
                f"update_sketch_rank is {rank!r}, but must be a whole number; 0 keeps the "
                "whole update"
            )
        if not isinstance(self.alpha, numbers.Real):
            raise ValueError(f"alpha is {self.alpha!r}, but must be a number in [0, 1)")
        if not 0 <= self.alpha < 1:
            raise ValueError(
                f"alpha is {self.alpha}, but must be in [0, 1): at 1 nothing would be forgotten"
            )
        temperature = self.loss_temperature
        if not isinstance(temperature, numbers.Real) or not 0 < temperature < math.inf:
            raise ValueError(
                f"loss_temperature is {temperature!r}, but must be a number above 0; 1 leaves the "
                "loss as it is"
            )
        if self.forget_objective not in ("loss", "silence"):
            raise ValueError(
                f"forget_objective is {self.forget_objective!r}, but must be 'loss' or 'silence'"
            )
        if self.step_control not in ("none", "drift"):
            raise ValueError(
                f"step_control is {self.step_control!r}, but must be 'none' or 'drift'"
            )
        if not self.max_drift > 0:
            raise ValueError(
                f"max_drift is {self.max_drift}, but must be above 0: at 0 no step could be taken"
            )
        if not isinstance(self.frozen_cache_gb, numbers.Real) or self.frozen_cache_gb < 0:
            raise ValueError(
                f"frozen_cache_gb is {self.frozen_cache_gb!r}, but must be a number of gigabytes, "
                "or 0 to keep nothing"
            )
        self.method_kwargs = _as_dict(self.method_kwargs)

    def to_dict(self) -> dict:
        """The arguments for trackers and results. `hide_names` is left out and, unless
        `name_forgotten` is set, these names are removed from all texts, because trackers upload
        them."""
        given = {**super().to_dict(), "method": str(self.method)}
        del given["hide_names"]
        return given if self.name_forgotten else without_names(given, self.hide_names)


def _as_dict(given: dict | str | None) -> dict | None:
    """Reads a dict that was written as JSON on a command line."""
    try:
        read = json.loads(given) if isinstance(given, str) else given
    except json.JSONDecodeError:
        read = given
    if read is not None and not isinstance(read, dict):
        raise ValueError(
            f"method_kwargs is {given!r}, but must be a dict, written as JSON on a command line: "
            f"'{{\"beta\": 0.5}}'"
        )
    return read


def unknown_argument(error: TypeError, given: Collection[str], known: Iterable[str]) -> TypeError:
    """A constructor's error about an unknown argument, with the known arguments that are spelled
    like it. Other errors are returned as they are.

    Args:
        given: the names of the arguments that the constructor got.
    """
    found = re.search(r"__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
    if found is None or found[1] not in given:
        return error
    similar = difflib.get_close_matches(found[1], known)
    meant = f"; did you mean {' or '.join(similar)}?" if similar else ""
    return TypeError(f"unknown argument {found[1]!r}{meant}")


def _with_suggestions(init: Callable) -> Callable:
    """A constructor whose error about an unknown argument names similar ones."""

    @functools.wraps(init)
    def constructor(self, *arguments, **keywords):
        try:
            init(self, *arguments, **keywords)
        except TypeError as error:
            known = [own.name for own in dataclasses.fields(self) if own.init]
            raise unknown_argument(error, keywords, known) from error.__cause__

    return constructor


UnlearnConfig.__init__ = _with_suggestions(UnlearnConfig.__init__)

# The default of plain TrainingArguments, which is longer than most unlearning runs.
PLAIN_LOGGING_STEPS = 500


def as_unlearn_config(args: TrainingArguments | None) -> UnlearnConfig:
    """Adds the fields of unlearning to plain TrainingArguments, or to a user's subclass of them.

    The result is a copy that is an instance of both the same class and `UnlearnConfig`: fields,
    properties and methods of the subclass stay. Missing fields get their defaults. A
    `logging_steps` of 500, the default of plain arguments, becomes that of UnlearnConfig, even if
    it was set explicitly, because the two cannot be told apart.

    Raises:
        TypeError: args are no TrainingArguments.
        ValueError: a subclass has a field with the name of one of UnlearnConfig's and a value that
            this field cannot have.
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
    # The class of the copy is changed instead of making a new instance from its fields, because
    # __post_init__ would set up devices again, and has already parsed fields that were texts.
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
