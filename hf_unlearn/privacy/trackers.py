"""Keeps names from experiment trackers (`report_to`), which get the numbers of each step."""

import os
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from torch import nn

from .redaction import mentions_any, texts_of

# Values of report_to that send nothing anywhere and show nobody the arguments.
LOCAL = ("none", "codecarbon")
# By default wandb uploads the command line, the repository and the console output. These
# variables turn that off; they must be set before it starts.
WANDB_PRIVATE = {
    "WANDB__DISABLE_META": "true",
    "WANDB_CONSOLE": "off",
    "WANDB_DISABLE_CODE": "true",
    "WANDB_DISABLE_GIT": "true",
}
# Trackers read further texts from the environment: WANDB_NAME, WANDB_NOTES,
# MLFLOW_EXPERIMENT_NAME.
VARIABLES = (
    "WANDB_",
    "MLFLOW_",
    "COMET_",
    "TRACKIO_",
    "NEPTUNE_",
    "CLEARML_",
    "SWANLAB_",
    "DVCLIVE_",
    "FLYTE_",
)
SECRETS = ("KEY", "TOKEN", "PASSWORD", "SECRET")


class TrackedArguments(Protocol):
    """What trackers get of an `UnlearnConfig`, and the names that they must not get."""

    report_to: Any
    run_name: str | None
    project: str
    hide_names: list[str] | None
    name_forgotten: bool


def refuse_names_in_trackers(
    args: TrackedArguments, model: nn.Module, eval_dataset: Any = None
) -> None:
    """Refuses a run that would tell a tracker a name in `args.hide_names`.

    The arguments themselves are not checked, because their `to_dict` redacts them.

    Args:
        eval_dataset: if it is a dict, metrics are named after its keys.

    Raises:
        ValueError: a name occurs in the name of the run, of the project or of an evaluation split,
            in a tracker's environment variable, or in the model's configuration.
    """
    trackers = [name for name in args.report_to if name not in LOCAL]
    if not trackers or not args.hide_names or args.name_forgotten:
        return
    for what, text in _texts_sent(args, model, eval_dataset):
        if text and mentions_any(text, args.hide_names):
            raise ValueError(
                f"{what} contains {text!r}, which names a forgotten person, and "
                f"{', '.join(trackers)} would get it: change it, set report_to to none, or "
                "allow the name with name_forgotten"
            )
    if "wandb" in trackers:
        for name, value in WANDB_PRIVATE.items():
            os.environ.setdefault(name, value)


def _texts_sent(
    args: TrackedArguments, model: nn.Module, eval_dataset: Any
) -> Iterator[tuple[str, str | None]]:
    """(what it is, text) of everything that trackers get besides the arguments and the metrics."""
    yield "run_name", args.run_name
    yield "project", args.project
    for split in eval_dataset if isinstance(eval_dataset, dict) else ():
        yield "a split of eval_dataset", str(split)
    for name, value in os.environ.items():
        if name.startswith(VARIABLES) and not any(secret in name for secret in SECRETS):
            yield f"the environment's {name}", value
    for text in texts_of(_configurations(model)):
        yield "the model's configuration", text


def _configurations(model: nn.Module) -> list[Mapping[str, Any]]:
    """The configurations of a model and of its adapters, as far as it has any."""
    configs = [getattr(model, "config", None), *getattr(model, "peft_config", {}).values()]
    return [
        config if isinstance(config, dict) else config.to_dict()
        for config in configs
        if config is not None
    ]
