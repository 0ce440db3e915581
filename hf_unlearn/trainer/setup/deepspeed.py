"""DeepSpeed with ZeRO stages 0 to 2, for methods that do not change gradients.

accelerate lets the engine take an optimizer step after each backward pass. A step of unlearning has
several: the micro-batches of forget samples, and the retain batch. So the engine is told which
backward pass is the last one. Before it, the engine only accumulates; after it, the engine steps.
"""

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ...models import replaced
from ..protocol import ModelView, PreparedView

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

MAX_STAGE = 2


def backward(engine: "DeepSpeedEngine", loss: Tensor, last: bool) -> None:
    """Adds the gradient of a loss to what the engine holds.

    Args:
        loss: already weighted by its share in the step.
        last: whether this is the last backward pass of the optimizer step, after which the engine
            averages over processes.
    """
    engine.set_gradient_accumulation_boundary(is_boundary=last)
    engine.backward(loss, scale_wrt_gas=False)


def take_step(engine: "DeepSpeedEngine", parameters: Iterable[nn.Parameter], finite: bool) -> bool:
    """Lets the engine clip the gradient and take the optimizer step.

    Args:
        finite: whether `.grad` is finite, as far as this process has it. At stage 0 the engine does
            not check.

    Returns:
        False if the gradient was not finite and was discarded.
    """
    optimizer = engine.optimizer
    # Each optimizer class of DeepSpeed has other attributes; plain ones (stage 0) have none.
    if not hasattr(optimizer, "overflow") and not finite:
        for p in parameters:
            p.grad = None
        return False
    if hasattr(optimizer, "check_grad_overflow"):
        # Without clipping, ZeRO would check in float16 only.
        optimizer.check_grad_overflow = True
    engine.step()
    return not getattr(optimizer, "overflow", False)


def move_to_training_precision(trainer: ModelView) -> None:
    """Moves a model that DeepSpeed has not prepared yet to the device and precision in which it
    will run."""
    dtype = trainer.accelerator.state.deepspeed_plugin.hf_ds_config.dtype()
    trainer.model.to(trainer.args.device, dtype)


def evaluating_without(trainer: PreparedView) -> contextlib.AbstractContextManager[None]:
    """Lets Trainer evaluate before training without DeepSpeed, for which it would demand stage 3.
    The model is whole then, as it is at stages 0 to 2."""
    has_engine = trainer.deepspeed is not None
    return replaced(trainer, is_deepspeed_enabled=trainer.is_deepspeed_enabled and has_engine)
