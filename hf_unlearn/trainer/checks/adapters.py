"""Checks that an adapter fits a model, and says in one line why it does not."""

import difflib

from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from ...files import one_line

ADAPTABLE = (nn.Linear, nn.Embedding, nn.modules.conv._ConvNd, Conv1D)
# How many layer names a message lists at most.
SHOWN = 12


def with_adapter(model: nn.Module, config: PeftConfig) -> PeftModel:
    """Adds a new adapter to a model and freezes everything else.

    Raises:
        ValueError: the adapter does not fit the model.
    """
    check_task_type(model, config)
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        reason = one_line(error)
        if "target" not in reason.lower():
            raise ValueError(f"peft refuses the adapter: {reason}") from error
        # not all kinds of adapters have target modules
        wanted = getattr(config, "target_modules", None)
        wanted = sorted(wanted) if isinstance(wanted, set | list) else wanted
        raise ValueError(
            f"target_modules is {wanted!r}, which names no layer that can have an adapter: "
            f"{type(model).__name__} has {', '.join(_similar_layers(model, wanted))}"
        ) from error


def check_task_type(model: nn.Module, config: PeftConfig | None = None) -> None:
    """Refuses adapters that call the model with token ids if it reads audio or images.

    Args:
        config: of an adapter to be added; None to check the adapter that the model may have.

    Raises:
        ValueError: the adapter calls the model with input_ids, which it does not take.
    """
    if config is None:
        if not isinstance(model, PeftModel) or type(model) is PeftModel:
            return
        model, config = model.get_base_model(), model.active_peft_config
    # modules of the user's own lack this attribute
    reads = getattr(model, "main_input_name", "input_ids")
    if reads == "input_ids":
        return
    name, kind = type(model).__name__, getattr(config.peft_type, "value", config.peft_type)
    if config.is_prompt_learning:
        raise ValueError(
            f"an adapter of type {kind} puts learned tokens before input_ids, but {name} reads "
            f"{reads}: use a LoraConfig"
        )
    if config.task_type is not None:
        task = getattr(config.task_type, "value", config.task_type)
        raise ValueError(
            f"task_type={task!r} makes peft call the model with input_ids, but {name} reads "
            f"{reads}: leave task_type out of the {type(config).__name__} (list a head that is to "
            "be trained in full in modules_to_save)"
        )


def _similar_layers(model: nn.Module, wanted: str | list | None) -> list[str]:
    """Names of layers that can have an adapter: those similar to the wanted ones, else all."""
    layers = {
        name.rpartition(".")[2]: None
        for name, module in model.named_modules()
        if isinstance(module, ADAPTABLE)
    }
    asked = [wanted] if isinstance(wanted, str) else wanted or []
    similar = [
        name
        for word in asked
        for name in difflib.get_close_matches(word.rpartition(".")[2], layers, cutoff=0.5)
    ]
    names = list(dict.fromkeys(similar)) or list(layers)
    return names[:SHOWN] + (["..."] if len(names) > SHOWN else [])
