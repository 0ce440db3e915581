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


def late_bound(folder) -> float:
    """A test loss that runs with `RULES` exceed for the first time at one of the steps 4 to 6.

    It is measured, because dropout draws other numbers with other versions of torch and of
    transformers, and the losses differ by as much as between two steps.
    """
    trainer = trainer_of(
        folder, stop_when="forget_loss >= 1000", abort_when="test_loss > 1000", **RULES
    )
    trainer.train()
    key = "check_test_loss"
    losses = [row[key] for row in trainer.state.log_history if key in row]
    step = next(step for step in (4, 5, 6) if losses[step] > max(losses[:step]))
    return (losses[step] + max(losses[:step])) / 2


def weights(trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
