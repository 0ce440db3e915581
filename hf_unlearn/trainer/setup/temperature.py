"""The temperature of the losses that a step forgets and keeps."""

import contextlib
from collections.abc import Iterator

from torch import nn

from ...per_sample.adapted_models import base_model


def output_layer(model: nn.Module) -> nn.Module | None:
    """The layer that gives the logits; None for a model that does not name it."""
    find = getattr(base_model(model), "get_output_embeddings", None)
    return None if find is None else find()


@contextlib.contextmanager
def dividing_logits(model: nn.Module, temperature: float) -> Iterator[None]:
    """Within this context, the model's logits are divided by `temperature` before its loss is
    computed."""
    if temperature == 1:
        yield
        return
    hook = output_layer(model).register_forward_hook(
        lambda layer, arguments, logits: logits / temperature
    )
    try:
        yield
    finally:
        hook.remove()


def check_temperature(model: nn.Module, temperature: float) -> None:
    """Raises ValueError where the temperature cannot be used with this model."""
    if temperature != 1 and output_layer(model) is None:
        raise ValueError(
            f"loss_temperature is {temperature}, but {type(base_model(model)).__name__} has no "
            "output embeddings (get_output_embeddings() is None), whose logits could be divided by "
            "it: leave it at 1"
        )
