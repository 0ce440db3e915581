"""Lets `generate` and the loss of the same batch share one pass through the encoder."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn
from transformers.utils import ModelOutput

from ...models import base_model
from .calls import is_repeatable, keys_of, named_arguments, outputs_asked_for, replacing_forward


@contextlib.contextmanager
def encoder_once(model: nn.Module) -> Iterator[None]:
    """Within this context the encoder of a model that writes texts computes each batch once. The
    model must be in evaluation mode, and its weights must not change."""
    model = base_model(model)
    if not getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        yield
        return
    encoder, seen = model.get_encoder(), {}

    def call(module: nn.Module, forward: Callable, args: tuple, kwargs: dict) -> Any:
        arguments = named_arguments(module, forward, args, kwargs)
        usual = arguments.get("return_dict", True) and not outputs_asked_for(module, arguments)
        if not usual or module.training or not is_repeatable(arguments):
            return forward(*args, **kwargs)
        key = tuple(keys_of(arguments, next(module.parameters()).device))
        if key not in seen:
            seen[key] = forward(*args, **kwargs)
        output = seen[key]
        # `generate` repeats the samples of the output that it gets, once for each beam.
        return type(output)(**output) if isinstance(output, ModelOutput) else output

    with replacing_forward(encoder, call):
        yield
