"""What all models and trainers of transformers and peft have in common: the label that losses
ignore, the model inside an adapter, and attributes with other values for a while."""

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn

# Trainer also pads labels with it between batches and processes.
IGNORE_INDEX = -100


@contextlib.contextmanager
def replaced(owner: object, **values: Any) -> Iterator[None]:
    """Within this context, attributes of an object have other values."""
    before = {name: getattr(owner, name) for name in values}
    try:
        for name, value in values.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


def peft_configs(model: nn.Module) -> dict[str, Any]:
    """The configurations of a peft model's adapters, by name; {} for other models."""
    return getattr(model, "peft_config", {})


def base_model(model: nn.Module) -> nn.Module:
    """The model inside an adapter, or the model itself if it has none."""
    is_adapter = hasattr(model, "peft_config") and hasattr(model, "get_base_model")
    return model.get_base_model() if is_adapter else model
