"""Tiny runs that save a checkpoint at each step."""

import torch
from transformers import set_seed

from tests.support.tiny import FORGET, RETAIN, make_trainer, tiny_whisper

# Three steps per epoch, dropout, an optimizer with moments, a schedule, and retain batches that
# differ between steps.
OPTIONS = {
    "max_steps": 7,
    "save_strategy": "steps",
    "save_steps": 1,
    "optimizer": False,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "linear",
    "per_device_train_batch_size": 3,
    "per_device_retain_batch_size": 2,
}

# The options of runs with stopping rules.
RULES = {
    "check_steps": 1,
    "check_samples": 4,
    "learning_rate": 5e-3,
    "method": "gradient_ascent",
    "lr_scheduler_type": "constant",
}


def trainer_of(folder, callbacks=(), **options):
    set_seed(0)
    arguments = {"callbacks": list(callbacks), "eval_dataset": {"forget": FORGET, "test": RETAIN}}
    return make_trainer(
        tiny_whisper(dropout=0.1), folder, arguments=arguments, **{**OPTIONS, **options}
    )


def weights(trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
