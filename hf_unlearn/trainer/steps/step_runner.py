"""Runs the method on the batches of an optimizer step, and decides whether the step is taken."""

import torch
from torch import Tensor, nn

from ...per_sample.shards import all_finite
from ..batches.forget_batches import ForgetBatches
from ..batches.retain_batches import RetainBatches
from ..checkpoints.preemption import Preemption
from ..losses.silence import Silence, forget_objective
from ..processes import all_processes, any_process
from ..protocol import TrainerView
from ..samples.broken_samples import broken_in_step
from ..samples.sample_access import SampleAccess
from ..setup import deepspeed
from ..stopping.run_record import RunRecord
from .attempts import Attempts
from .nonfinite import SkippedSteps
from .step import TrainerStep
from .step_statistics import StepStatistics


class StepRunner:
    """Runs the optimizer steps of one attempt at a training.

    Args:
        silence: gives batches the labels of silence; None with another `forget_objective`.

    Attributes:
        forget_batches, retain_batches: the batches of the steps.
        statistics: what the steps report to the log.
        last_step: the micro-batch that was run last.
    """

    def __init__(
        self,
        trainer: TrainerView,
        access: SampleAccess,
        silence: Silence | None,
        attempts: Attempts,
        skipped: SkippedSteps,
        record: RunRecord,
        preemption: Preemption,
    ):
        self._trainer, self._access, self._silence = trainer, access, silence
        self._attempts, self._skipped = attempts, skipped
        self._record, self._preemption = record, preemption
        self.forget_batches = ForgetBatches(trainer)
        self.retain_batches = RetainBatches(trainer, access.padding.collator, silence)
        self.statistics = StepStatistics()
        self.last_step: TrainerStep | None = None

    def run(self, model: nn.Module, batch: dict) -> Tensor:
        """Runs one micro-batch of forget samples and, after the last one of an optimizer step, the
        retain batch; returns the loss for Trainer's log."""
        share, first_index = self.forget_batches.next_share()
        # The checks come first, because a gradient would take memory in addition to theirs.
        batch = self._access.with_padding_checked(batch, self._attempts.at_retain_batch)
        step = TrainerStep(
            self._trainer,
            self._access,
            model,
            batch,
            share,
            first_index,
            self.retain_batches,
            self._silence,
        )
        self.last_step = step
        self._access.frozen.find(batch)
        self._access.engine_choice.check_batch_loss(batch, self._access.model_loss)
        self._check_engine(step)
        with self._access.randomness.in_step():
            return self._losses(step)

    def sample_losses(self, batch: dict) -> Tensor:
        """The losses (k,) of a batch's samples in the network that is evaluated."""
        return self._access.sample_losses(self._access.with_padding_checked(batch))

    def forget_losses(self, batch: dict) -> Tensor:
        """What a step raises on the forget samples of a batch: (k,)."""
        batch, sign = forget_objective(self._silence, batch)
        return sign * self.sample_losses(batch).float()

    def _check_engine(self, step: TrainerStep) -> None:
        if self._trainer.method.per_sample and self._access.engine_choice.engine is None:
            with self._attempts.at_retain_batch():
                batch = step.draw_retain_batch().batch
                self._access.engine_choice.check_engine(batch, self._access.model_loss)

    def _losses(self, step: TrainerStep) -> Tensor:
        method = self._trainer.method
        loss = torch.zeros((), device=self._trainer.args.device)
        if method.uses_forget:
            with self._access.frozen.off_for(self._trainer.train_dataset):
                loss = method.forget(step)
            self.statistics.add("forget_loss", loss)
        if self._trainer.accelerator.sync_gradients:
            if method.uses_retain and self._everywhere_finite(step):
                with self._attempts.at_retain_batch():
                    retain = step.draw_retain_batch()
                    logged = self._retain(step)
                for name, value in logged.items():
                    self.statistics.add(name, value)
                if (earlier_loss := retain.earlier_loss) is not None:
                    self.statistics.add("previous_loss", earlier_loss)
                loss = loss if method.uses_forget else logged["retain_loss"]
            method.finish(step)
            self._finish(step)
        return loss

    def _retain(self, step: TrainerStep) -> dict[str, Tensor]:
        if self._trainer.method.per_sample and self._access.engine_choice.engine is None:
            # The engine could not be checked: this step is skipped, and the next one tries again.
            return {"retain_loss": torch.tensor(torch.nan, device=self._trainer.args.device)}
        return self._trainer.method.retain(step)

    def _everywhere_finite(self, step: TrainerStep) -> bool:
        """Whether the forget gradient is finite on all processes."""
        # DeepSpeed's engine holds the gradient and can only discard it after the last backward
        # pass.
        if self._trainer.is_deepspeed_enabled:
            return True
        broken = not all_finite(p.grad for p in step.parameters)
        return not any(any_process([broken], self._trainer.args.device))

    def _finish(self, step: TrainerStep) -> None:
        """Lets all processes agree on whether the optimizer uses the gradient, and on whether the
        training goes on."""
        trainer = self._trainer
        flags = [
            not all_finite(self.statistics.losses_of_step()),
            not all_finite(p.grad for p in step.parameters),
            self._preemption.received,
        ]
        bad_loss, bad_gradient, self._preemption.stop_agreed = any_process(
            flags, trainer.args.device
        )
        scaled = trainer.accelerator.scaler is not None
        if trainer.is_deepspeed_enabled:
            bad_gradient = not deepspeed.take_step(
                trainer.deepspeed, step.parameters, finite=not bad_gradient
            )
            scaled = trainer.deepspeed.fp16_enabled()
        # A gradient scaler handles an overflow of the gradient of finite losses by itself.
        if bad_loss or bad_gradient and not scaled:
            self._skip(step)
        elif not bad_gradient:
            self._skipped.in_a_row = 0
            self._record.step_taken()
            self.statistics.step_taken()
        self.statistics.end_step()

    def _skip(self, step: TrainerStep) -> None:
        trainer = self._trainer
        forget = self.forget_batches.batches if trainer.method.uses_forget else []
        retain_batch = None if step.retain is None else step.retain.batch
        broken_here = broken_in_step(
            trainer, self._access.model_loss, forget, retain_batch, self.retain_batches
        )
        broken = [name for names in all_processes(broken_here) for name in names]
        self._skipped.skip(trainer.state, broken, step.parameters, trainer.accelerator.scaler)
