"""The precision of weights: whatever they are stored in, training changes them in float32."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers.utils import logging

logger = logging.get_logger(__name__)

HALF = (torch.float16, torch.bfloat16)


def train_in_float32(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Converts a model with trainable parameters in half precision to float32, in place, with a
    warning.

    In half precision most of an unlearning step is lost: a weight of 1 cannot change by less than
    0.004 in bfloat16. Frozen half-precision weights beside trained float32 ones (a LoRA adapter)
    stay as they are.

    Args:
        optimizer: a user's optimizer of the model's parameters, which remain the same objects; its
            state is converted too.

    Raises:
        ValueError: the parameters cannot be converted because they are quantised or sharded.
    """
    halves = [
        (name, p) for name, p in model.named_parameters() if p.requires_grad and p.dtype in HALF
    ]
    if not halves:
        return
    name, dtype = halves[0][0], str(halves[0][1].dtype).removeprefix("torch.")
    why = (
        f"{len(halves)} trainable parameters, such as {name}, are in {dtype}, in which small "
        "updates are lost"
    )
    if any(isinstance(p, DTensor) for _, p in halves):
        raise ValueError(
            f"{why}: call model.float() before fully_shard(..., "
            "mp_policy=MixedPrecisionPolicy(torch.bfloat16))"
        )
    # only transformers' models have these attributes
    quantised = getattr(model, "is_quantized", False) or getattr(model, "quantization_method", None)
    if quantised:
        raise ValueError(
            f"{why}, and a quantised model cannot be converted to float32: train an adapter on it "
            "(peft_config), or load the model without quantization"
        )
    logger.warning(
        f"{why}: converting the whole model to float32, in which it will also be saved. For faster "
        "computation set bf16=True, which keeps the weights in float32."
    )
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.dtype in HALF:
            tensor.grad, tensor.data = None, tensor.data.float()
    if optimizer is not None and optimizer.state:
        # loading casts the state to the parameters' precision
        optimizer.load_state_dict(optimizer.state_dict())


def input_precision(model: nn.Module) -> torch.dtype | None:
    """The half precision of a model's first weights, which its inputs need as well; None for any
    other precision."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
    return dtype if dtype in HALF else None


def cast_inputs(inputs: dict, dtype: torch.dtype | None, labels: list[str]) -> dict:
    """Casts floating-point inputs, except labels, to the model's half precision, in place.

    Args:
        dtype: None to change nothing.
        labels: names of the inputs that are labels.
    """
    if dtype is None:
        return inputs
    for name, value in inputs.items():
        if isinstance(value, Tensor) and value.is_floating_point() and name not in labels:
            inputs[name] = value.to(dtype)
    return inputs


@contextlib.contextmanager
def restoring_weights(model: nn.Module) -> Iterator[None]:
    """Restores the model's exact weights at the end of the context. A cast to half precision and
    back would leave rounded copies."""
    parameters = [(p, p.data) for p in model.parameters()]
    buffers = [(module, dict(module._buffers)) for module in model.modules()]
    try:
        yield
    finally:
        for p, data in parameters:
            p.data = data
        for module, before in buffers:
            module._buffers.update(before)
