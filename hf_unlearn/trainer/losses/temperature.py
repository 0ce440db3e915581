"""The temperature of the losses that a step forgets and keeps."""

import contextlib
from collections.abc import Iterator

from torch import nn

from ...models import base_model


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
