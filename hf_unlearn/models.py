"""What all models of transformers and peft have in common: the label that losses ignore, and the
model inside an adapter."""

from typing import Any

from torch import nn

# Trainer also pads labels with it between batches and processes.
IGNORE_INDEX = -100


def peft_configs(model: nn.Module) -> dict[str, Any]:
    """The configurations of a peft model's adapters, by name; {} for other models."""
    return getattr(model, "peft_config", {})


def base_model(model: nn.Module) -> nn.Module:
    """The model inside an adapter, or the model itself if it has none."""
    is_adapter = hasattr(model, "peft_config") and hasattr(model, "get_base_model")
    return model.get_base_model() if is_adapter else model
