"""Lets accelerate prepare a model in an unusual order: before an evaluation, and again for
training."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from accelerate.optimizer import AcceleratedOptimizer

from ...per_sample.shards import sharded_modules
from ..protocol import ModelView, PreparedView


@contextlib.contextmanager
def keeping_shards(trainer: ModelView) -> Iterator[None]:
    """Within this context accelerate does not shard a model again that it has sharded before, which
    would fail."""
    accelerator, model = trainer.accelerator, trainer.model
    if not (accelerator.is_fsdp2 and sharded_modules(model)):
        yield
        return
    prepare = accelerator.prepare

    def prepare_others(*objects: Any, **keywords: Any) -> Any:
        if not any(x is trainer.model for x in objects):
            return prepare(*objects, **keywords)
        model, optimizer = objects
        accelerator._models.append(model)
        accelerator._optimizers.append(optimizer)
        return objects

    accelerator.prepare = prepare_others
    try:
        yield
    finally:
        del accelerator.prepare


def prepare_again(trainer: ModelView) -> None:
    """Makes accelerate prepare the model again.

    If a model is evaluated before it is trained, Trainer prepares it for evaluation only. Training
    would then run without DistributedDataParallel, on each process by itself.
    """
    accelerator, model = trainer.accelerator, trainer.model
    prepared = accelerator._models
    if sharded_modules(model):
        return
    if (trainer.args.world_size > 1 or trainer.is_deepspeed_enabled) and any(
        other is model for other in prepared
    ):
        prepared[:] = [other for other in prepared if other is not model]
        # Also removes autocast from the forward method.
        accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        # Only newer versions of accelerate set this mark.
        vars(model).pop("_is_accelerate_prepared", None)


def own_optimizer(trainer: PreparedView) -> torch.optim.Optimizer:
    """The trainer's optimizer without accelerate's wrapper.

    Raises:
        RuntimeError: Trainer has not created it yet.
    """
    optimizer = trainer.optimizer
    if optimizer is None:
        raise RuntimeError("the optimizer is made when the training begins: ask for it in a step")
    return optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer


def shard_untrained_model(trainer: PreparedView) -> None:
    """Lets accelerate shard a model that is evaluated before it is trained."""
    accelerator = trainer.accelerator
    if accelerator.is_fsdp2 and not sharded_modules(trainer.model):
        trainer.create_optimizer()
        trainer.model, trainer.optimizer = accelerator.prepare(trainer.model, trainer.optimizer)
        trainer.model_wrapped = trainer.model
