"""What is said of an adapter that does not fit a model, in one line each."""

import difflib

from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

ADAPTABLE = (nn.Linear, nn.Embedding, nn.modules.conv._ConvNd, Conv1D)
SHOWN = 12


def with_adapter(model: nn.Module, config: PeftConfig) -> PeftModel:
    """The model with a new adapter, all else frozen. Raises ValueError: it does not fit."""
    check_task_type(model, config)
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        reason = " ".join(str(error).split())
        if "target" not in reason.lower():
            raise ValueError(f"peft refuses the adapter: {reason}") from error
        wanted = getattr(config, "target_modules", None)
        wanted = sorted(wanted) if isinstance(wanted, set | list) else wanted
        raise ValueError(
            f"target_modules is {wanted!r}, which names no layer that can have an adapter: "
            f"{type(model).__name__} has "
            f"{', '.join(_near(model, wanted))}"
        ) from error


def check_task_type(model: nn.Module, config: PeftConfig | None = None) -> None:
    """Refuses adapters that call the model with token ids, where it reads sound or images.

    Args:
        config: of an adapter that is still to come; None for a model that may have one.
    """
    if config is None:
        if not isinstance(model, PeftModel) or type(model) is PeftModel:
            return
        model, config = model.get_base_model(), model.active_peft_config
    reads = getattr(model, "main_input_name", "input_ids")
    if reads == "input_ids":
        return
    name, kind = type(model).__name__, getattr(config.peft_type, "value", config.peft_type)
    if config.is_prompt_learning:
        raise ValueError(
            f"an adapter of type {kind} puts learned tokens before input_ids, but {name} reads "
            f"{reads}: take a LoraConfig"
        )
    if config.task_type is not None:
        task = getattr(config.task_type, "value", config.task_type)
        raise ValueError(
            f"task_type={task!r} makes peft call the model with input_ids, but {name} reads "
            f"{reads}: leave task_type out of "
            f"the {type(config).__name__} (a head that is to be trained whole goes into "
            "modules_to_save)"
        )


def _near(model: nn.Module, wanted: str | list | None) -> list[str]:
    """Names of layers that can have an adapter, first those most like the wanted ones."""
    known = {
        name.rpartition(".")[2]: None
        for name, module in model.named_modules()
        if isinstance(module, ADAPTABLE)
    }
    asked = [wanted] if isinstance(wanted, str) else wanted or []
    near = [
        name
        for word in asked
        for name in difflib.get_close_matches(word.rpartition(".")[2], known, cutoff=0.5)
    ]
    names = list(dict.fromkeys(near)) or list(known)
    return names[:SHOWN] + (["..."] if len(names) > SHOWN else [])
