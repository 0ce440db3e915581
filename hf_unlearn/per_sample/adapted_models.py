"""The model inside an adapter, and the configurations of adapters."""

from typing import Any

from torch import nn


def peft_configs(model: nn.Module) -> dict[str, Any]:
    """The configurations of a peft model's adapters, by name; {} for other models."""
    return getattr(model, "peft_config", {})


def base_model(model: nn.Module) -> nn.Module:
    """The model inside an adapter, or the model itself if it has none."""
    is_adapter = hasattr(model, "peft_config") and hasattr(model, "get_base_model")
    return model.get_base_model() if is_adapter else model
