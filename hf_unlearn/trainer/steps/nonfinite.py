"""Keeps losses and gradients that are not finite away from the weights."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from ..checkpoints.checkpoint_files import saved_state

logger = logging.get_logger(__name__)


class SkippedSteps(TrainerCallback):
    """Skips optimizer steps whose loss or gradient is not finite, and counts them.

    Args:
        limit: the training ends after this many skipped steps in a row.

    Attributes:
        total: the skipped steps of the run, those before a checkpoint it resumes from included.
        in_a_row: the skipped steps since the last one that was taken.
    """

    def __init__(self, limit: int):
        self.limit, self.total, self.in_a_row = limit, 0, 0
        self._scaler: torch.amp.GradScaler | None = None
        self._scale: float | None = None

    def load(self, checkpoint: str | None) -> None:
        """Continues the counts of a checkpoint, or starts from zero."""
        saved = saved_state(checkpoint) if checkpoint else {}
        self.total, self.in_a_row = saved.get("skipped_steps", 0), saved.get("skipped_in_a_row", 0)
        self._scaler = self._scale = None

    def state(self) -> dict[str, int]:
        """What a checkpoint stores."""
        return {"skipped_steps": self.total, "skipped_in_a_row": self.in_a_row}

    def skip(
        self,
        state: TrainerState,
        samples: list[str],
        parameters: Iterable[nn.Parameter],
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        """Makes the optimizer's coming step change nothing.

        Args:
            samples: names of the samples whose loss or gradient is not finite.

        Raises:
            ValueError: it is the `limit`-th skipped step in a row.
        """
        self.total, self.in_a_row, step = self.total + 1, self.in_a_row + 1, state.global_step + 1
        named = ", ".join(samples) or "no single sample (only their sum overflows)"
        if state.is_world_process_zero:
            logger.warning(
                f"Step {step} is skipped because its loss or gradient is not finite: that of "
                f"{named}. ({self.total} skipped so far, {self.in_a_row} in a row.)"
            )
        if self.in_a_row >= self.limit:
            raise ValueError(
                f"{self.in_a_row} optimizer steps in a row were skipped "
                f"(max_skipped_steps={self.limit}) because their loss or gradient was not finite; "
                f"at step {step} that of {named}. The weights are those of the last good step. "
                "Remove these samples, or lower learning_rate if the model itself has diverged."
            )
        if scaler is None:
            for p in parameters:
                # Optimizers skip parameters without a gradient, moments and weight decay included.
                p.grad = None
        else:
            # A scaler skips the step by itself, but it would lower its scale, as after an overflow.
            self._scaler, self._scale = scaler, scaler.get_scale()

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        if self._scaler is not None:
            self._scaler.update(self._scale)
            self._scaler = self._scale = None
