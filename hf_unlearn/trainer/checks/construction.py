"""All checks that a trainer makes when it is constructed, in their order."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peft import PeftConfig
from torch import nn

from ...config import UnlearnConfig
from ...methods import Method
from ...privacy.trackers import refuse_names_in_trackers
from ..protocol import RunView
from .adapter_checks import check_task_type
from .compatibility import check_compatible, check_deepspeed
from .data_checks import check_data
from .earlier_requests import check_earlier_requests, check_updates
from .evaluation_checks import check_evaluation
from .overlap import warn_of_overlap
from .whisper_prompt import warn_of_difference


def one_forget_set(train_dataset: Any, forget_dataset: Any) -> Any:
    """The forget set, which may be given under either name.

    Raises:
        ValueError: both are given.
    """
    if train_dataset is not None and forget_dataset is not None:
        raise ValueError("train_dataset is an alias of forget_dataset: give one of them, not both")
    return train_dataset if forget_dataset is None else forget_dataset


def check_before(
    method: Method,
    args: UnlearnConfig,
    model: nn.Module | None,
    peft_config: PeftConfig | None,
    forget_dataset: Any,
    retain_dataset: Any,
    previous_forget_dataset: Any,
    previous_updates: Sequence[str | Path] | None,
) -> None:
    """The checks of what a trainer is given, before the model is set up.

    Raises:
        ValueError: the arguments cannot work together.
    """
    check_deepspeed(method, args)
    check_data(method, forget_dataset, retain_dataset, args)
    check_task_type(model, peft_config)
    check_earlier_requests(method, previous_forget_dataset, previous_updates, args)
    warn_of_overlap(forget_dataset, retain_dataset)
    warn_of_overlap(previous_forget_dataset, retain_dataset, "previous_forget_dataset")


def check_after(trainer: RunView) -> None:
    """The checks of the model and the arguments that Trainer's constructor has set up.

    Raises:
        ValueError: the arguments cannot work together.
    """
    check_compatible(trainer.method, trainer)
    check_updates(trainer)
    check_evaluation(trainer)
    refuse_names_in_trackers(trainer.args, trainer.model, trainer.eval_dataset)
    warn_of_difference(trainer)
