"""The training arguments that a reader of the results may see."""

import json
from typing import Any

from .unlearn_config import UnlearnConfig

# Fields of the training arguments that describe this machine or this user. (`to_dict` masks tokens
# by itself.)
PRIVATE = (
    "output_dir",
    "resume_from_checkpoint",
    "run_name",
    "logging_dir",
    "hub_token",
    "push_to_hub_token",
)


def public_arguments(args: UnlearnConfig) -> dict:
    """The training arguments without paths and tokens, as JSON can hold them.

    `hide_names` is among them, because uploads (`hub.staging.stage`) need it to redact the rest.
    """
    arguments = {
        name: _json_value(value) for name, value in args.to_dict().items() if name not in PRIVATE
    }
    return {**arguments, "hide_names": args.hide_names}


def _json_value(value: Any) -> Any:
    """The value itself, or its text if JSON cannot hold it (fields that a user added)."""
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return str(value)
    return value
