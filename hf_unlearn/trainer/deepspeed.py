"""DeepSpeed with ZeRO stages 0 to 2, for the methods that leave gradients alone.

accelerate lets the engine take an optimizer step after each backward pass. One of ours has several: the micro-batches of
forget samples, and the retain batch. So the engine is told which of them is the last, before which
it only accumulates, and takes its step after it.
"""

import contextlib
from collections.abc import Iterable

from torch import Tensor, nn

MAX_STAGE = 2


def zero_stage(trainer) -> int | None:
    """The stage of ZeRO that was asked for; None without DeepSpeed."""
    plugin = getattr(trainer.accelerator.state, "deepspeed_plugin", None)
    return None if plugin is None else plugin.zero_stage


def backward(engine, loss: Tensor, last: bool) -> None:
    """Adds the gradient of a loss (already the share that it has in the step) to what the engine
    holds.

    Args:
        last: of the optimizer step; the engine then averages over processes.
    """
    engine.set_gradient_accumulation_boundary(is_boundary=last)
    engine.backward(loss, scale_wrt_gas=False)


def take_step(engine, parameters: Iterable[nn.Parameter], finite: bool) -> bool:
    """Lets the engine clip, and take the optimizer's step; False where the gradient was not finite,
    and is thrown away.

    Args:
        finite: whether `.grad` is, as far as it is there: at stage 0 the engine steps without a
            look.
    """
    optimizer = engine.optimizer
    if not hasattr(optimizer, "overflow") and not finite:
        for p in parameters:
            p.grad = None
        return False
    if hasattr(optimizer, "check_grad_overflow"):
        optimizer.check_grad_overflow = True  # ZeRO looks in float16 only, if nothing is clipped
    engine.step()
    return not getattr(optimizer, "overflow", False)


def to_its_precision(trainer) -> None:
    """Brings a model that DeepSpeed has not prepared yet to where it will run, in the precision
    that it will have."""
    dtype = trainer.accelerator.state.deepspeed_plugin.hf_ds_config.dtype()
    trainer.model.to(trainer.args.device, dtype)


@contextlib.contextmanager
def evaluated_without(trainer):
    """Before training the model is whole, as it is to stage 2 and below: Trainer would want stage 3
    for it."""
    whole = trainer.is_deepspeed_enabled and trainer.deepspeed is None
    trainer.is_deepspeed_enabled = trainer.is_deepspeed_enabled and not whole
    try:
        yield
    finally:
        trainer.is_deepspeed_enabled = trainer.is_deepspeed_enabled or whole
