"""Checkpoints of a model whose parameters are sharded (FSDP2), in the files and formats of a model
that is not sharded."""

from pathlib import Path

import torch
from torch import Tensor
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from ...per_sample.shards import sharded_modules
from ..protocol import CheckpointView
from .state_dicts import (
    load_whole_optimizer_state,
    load_whole_weights,
    whole_optimizer_state,
    whole_state_dict,
)


class ShardedCheckpoints:
    """Saves and loads a trainer's sharded model, its optimizer and its scheduler. All processes
    must call these methods together.

    A checkpoint does not depend on the number of processes, and from_pretrained loads it.
    """

    def __init__(self, trainer: CheckpointView):
        self._trainer = trainer

    @property
    def needed(self) -> bool:
        """Whether the model is sharded."""
        return bool(sharded_modules(self._trainer.model))

    def state_dict(self) -> dict[str, Tensor]:
        """The whole weights; empty on all processes but the main one."""
        return whole_state_dict(self._trainer.model)

    def load_weights(self, checkpoint: Path) -> None:
        load_whole_weights(self._trainer.model, checkpoint)

    def save_optimizer(self, folder: Path) -> None:
        state = whole_optimizer_state(self._trainer.optimizer)
        if self._trainer.args.should_save:
            torch.save(state, folder / OPTIMIZER_NAME)
            torch.save(self._trainer.lr_scheduler.state_dict(), folder / SCHEDULER_NAME)

    def load_optimizer(self, checkpoint: Path) -> None:
        optimizer, scheduler = (
            torch.load(checkpoint / name, map_location="cpu", weights_only=True)
            for name in (OPTIMIZER_NAME, SCHEDULER_NAME)
        )
        load_whole_optimizer_state(self._trainer.optimizer, optimizer)
        self._trainer.lr_scheduler.load_state_dict(scheduler)
