"""What trackers (`report_to`) may learn of a run: the numbers of its steps, and no name of who is
forgotten."""

import os

from torch import nn

from .redaction import names_somebody, texts_of

HERE = ("none", "codecarbon")  # what sends nothing anywhere, and shows nobody the arguments
# wandb uploads the command line, the repository and what is printed, unless told otherwise before
# it starts.
DISCREET = {
    "WANDB__DISABLE_META": "true",
    "WANDB_CONSOLE": "off",
    "WANDB_DISABLE_CODE": "true",
    "WANDB_DISABLE_GIT": "true",
}


# Further texts that trackers take from the environment: WANDB_NAME, WANDB_NOTES,
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


def keep_names_from_trackers(args, model: nn.Module, eval_dataset=None) -> None:
    """Refuses what would tell a tracker whom `args.hide_names` names, but for the arguments, which
    `to_dict` redacts.

    Raises:
        ValueError: the run's name, the project's, an evaluation split's (which metrics are named
            after), a tracker's variable of the environment, or the model's configuration names
            somebody.
    """
    trackers = [name for name in args.report_to if name not in HERE]
    if not trackers or not args.hide_names or args.name_forgotten:
        return
    told = [("run_name", args.run_name), ("project", args.project)]
    configs = [getattr(model, "config", None), *getattr(model, "peft_config", {}).values()]
    configs = [
        config if isinstance(config, dict) else config.to_dict()
        for config in configs
        if config is not None
    ]
    told += [
        ("a split of eval_dataset", str(split))
        for split in (eval_dataset if isinstance(eval_dataset, dict) else ())
    ]
    told += [
        (f"the environment's {name}", value)
        for name, value in os.environ.items()
        if name.startswith(VARIABLES) and not any(secret in name for secret in SECRETS)
    ]
    told += [("the model's configuration", text) for text in texts_of(configs)]
    if named := next(
        (pair for pair in told if pair[1] and names_somebody(pair[1], args.hide_names)), None
    ):
        raise ValueError(
            f"{named[0]} says {named[1]!r}, which names who is forgotten, and "
            f"{', '.join(trackers)} would get it: change it, "
            "set report_to to none, or tell the name knowingly with name_forgotten"
        )
    if "wandb" in trackers:
        for name, value in DISCREET.items():
            os.environ.setdefault(name, value)
