"""Refuses adapters that cannot call the model."""

from peft import PeftConfig, PeftModel
from torch import nn


def check_task_type(model: nn.Module | None, config: PeftConfig | None = None) -> None:
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
