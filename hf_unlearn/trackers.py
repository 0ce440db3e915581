"""What trackers (`report_to`) may learn of a run: the numbers of its steps, and no name of who is forgotten."""

import os

from torch import nn

from .redaction import names_somebody, texts_of

HERE = ("none", "codecarbon")  # what sends nothing anywhere, and shows nobody the arguments
# wandb uploads the command line, the repository and what is printed, unless told otherwise before it starts.
DISCREET = {
    "WANDB__DISABLE_META": "true",
    "WANDB_CONSOLE": "off",
    "WANDB_DISABLE_CODE": "true",
    "WANDB_DISABLE_GIT": "true",
}


def keep_names_from_trackers(args, model: nn.Module) -> None:
    """Refuses what would tell a tracker whom `args.hide_names` names, but for the arguments, which `to_dict` redacts.

    Raises:
        ValueError: the run's name, the project's, or the model's configuration names somebody.
    """
    trackers = [name for name in args.report_to if name not in HERE]
    if not trackers or not args.hide_names or args.name_forgotten:
        return
    told = [("run_name", args.run_name), ("project", args.project)]
    configs = [getattr(model, "config", None), *getattr(model, "peft_config", {}).values()]
    configs = [config if isinstance(config, dict) else config.to_dict() for config in configs if config is not None]
    told += [("the model's configuration", text) for text in texts_of(configs)]
    if named := next((pair for pair in told if pair[1] and names_somebody(pair[1], args.hide_names)), None):
        raise ValueError(
            f"{named[0]} says {named[1]!r}, which names who is forgotten, and {', '.join(trackers)} would get it: change it, "
            "set report_to to none, or tell the name knowingly with name_forgotten"
        )
    if "wandb" in trackers:
        for name, value in DISCREET.items():
            os.environ.setdefault(name, value)
