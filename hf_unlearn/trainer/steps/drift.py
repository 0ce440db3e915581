"""`step_control="drift"`: the rise of the retain losses decides how long each optimizer step is.

Orthogonality is a first-order statement. It gives a direction, not a length: the loss of a
retained sample rises with the square of the step's length. So the length is measured, not taken
from `learning_rate`.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from ...per_sample.shards import local, own_parameters
from ..checkpoints.checkpoint_files import saved_state
from ..processes import all_processes
from ..protocol import TrainerView
from ..randomness import compares_gradients
from ..setup.prepared_models import own_optimizer
from .step_runner import StepRunner

logger = logging.get_logger(__name__)

# Lengths tried in one step before it is given up. Each try shortens the step by at most SHORTEST.
TRIES = 8
SHORTEST = 0.1
# How much the length may grow from one step to the next, and between tries of the first step.
GROWTH, FIRST_GROWTH = 2.0, 10.0
# The length aims at this share of the bound, because the quadratic model is not exact.
AIM = 0.8
# Steps in a row that forget nothing before the training ends.
STALLED = 3


class DriftControl(TrainerCallback):
    """Takes, in each step, the longest step along the optimizer's update after which no sample of
    the retain batch has a loss more than `max_drift` higher than before.

    The rise r of the worst sample is taken to grow with the square of the length s, r = c s^2, as
    it does after an orthogonal projection. After a step with the rise r, the next length is
    s sqrt(0.8 max_drift / r), at most twice as long. A step that turns out too long is shortened in
    place, by the same formula. In the first step, lengths up to the bound are tried, starting from
    `learning_rate`.

    Logged are `drift`, the measured rise of the worst retain sample; `expected_drift`, the rise
    that the quadratic model had predicted; `forget_rise`, the measured rise of the mean forget
    loss; and `step_factor`, by which the optimizer's update was multiplied.

    The training ends when three steps in a row do not raise the forget loss.

    Args:
        runner_of_attempt: gives the runner of the steps of the current attempt.

    Attributes:
        factor: what multiplies the learning rate in the next step.
        stopping_reason: what reports say of a training that this callback ended.
    """

    stopping_reason = "no step forgets within max_drift"

    def __init__(self, trainer: TrainerView, runner_of_attempt: Callable[[], StepRunner]):
        self._trainer, self._runner_of_attempt = trainer, runner_of_attempt
        self.factor, self._searched, self._stalled = 1.0, False, 0
        # The curvature c of r = c s^2, as the last step has shown it.
        self._curvature: float | None = None
        self._before: list[Tensor] = []
        self._retain_before: Tensor | None = None
        self._forget_before = 0.0
        self._rates: list[float] = []
        self._optimizer_before: dict | None = None

    def begin(self, checkpoint: str | None) -> None:
        """Starts an attempt at a training, or continues that of a checkpoint."""
        saved = saved_state(checkpoint).get("drift") if checkpoint else None
        self.factor, self._curvature, self._stalled = saved or (1.0, None, 0)
        self._searched = saved is not None

    def state(self) -> tuple[float, float | None, int]:
        """What a checkpoint stores."""
        return self.factor, self._curvature, self._stalled

    # ---- around the optimizer's step -------------------------------------------------------------

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Notes weights and losses, and makes the optimizer's step as long as expected."""
        self._before = []
        if self._runner.last_step.retain is None:
            # The forget gradient was not finite, so the step is skipped.
            return
        self._before = [p.clone() for p in self._parameters()]
        self._retain_before, self._forget_before = self._retain_losses_before(), self._forget_loss()
        if not self._searched:
            self._optimizer_before = copy.deepcopy(self._optimizer.state_dict())
        self._rates = [group["lr"] for group in self._optimizer.param_groups]
        self._scale_rates()

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measures the step, and shortens it until the bound holds."""
        if not self._before:
            return
        if self._weights_changed():
            rise = self._rise()
            if not self._searched:
                rise = self._search(rise)
            expected = self._curvature and self._curvature * self.factor**2
            share, rise = self._shorten(rise)
            self._after_step(share, rise, expected, control)
        self._restore_rates()
        self._before, self._optimizer_before = [], None

    def _search(self, rise: float) -> float:
        """Repeats the first step with higher rates until the bound is reached."""
        self._searched = True
        for _ in range(TRIES):
            if not rise < AIM / 2 * self._bound:
                break
            growth = min(max(_ratio(self._bound, rise), 1.5), FIRST_GROWTH)
            self._restore_weights()
            self._optimizer.load_state_dict(copy.deepcopy(self._optimizer_before))
            self.factor *= growth
            self._scale_rates()
            self._optimizer.step()
            rise = self._rise()
        return rise

    def _shorten(self, rise: float) -> tuple[float, float]:
        """Shortens the step until the bound holds. Returns the share of the step that was taken,
        and the rise."""
        after, share = [p.clone() for p in self._parameters()], 1.0
        for _ in range(TRIES):
            # A rise that is not finite is above every bound.
            if rise <= self._bound:
                return share, rise
            share *= min(max(_ratio(self._bound, rise), SHORTEST), AIM)
            self._interpolate(after, share)
            rise = self._rise()
        self._restore_weights()
        return 0.0, 0.0

    def _after_step(
        self, share: float, rise: float, expected: float | None, control: TrainerControl
    ) -> None:
        forget_rise = self._forget_loss() - self._forget_before if share else 0.0
        self._log(rise, forget_rise, expected, self.factor * share)
        self._stalled = 0 if forget_rise > 0 else self._stalled + 1
        length = self.factor * (share or SHORTEST)
        self._curvature = rise / length**2 if share and rise > 0 else None
        self.factor = length * (min(_ratio(self._bound, rise), GROWTH) if share else 1.0)
        if self._stalled >= STALLED:
            control.should_training_stop = True
            if self._trainer.args.process_index == 0:
                logger.warning(
                    f"Training ends: the last {STALLED} steps did not raise the forget loss. No "
                    "step forgets while the loss of every retain sample rises by at most "
                    f"max_drift={self._bound:g}. Raise max_drift, or train other parameters."
                )

    def _log(self, rise: float, forget_rise: float, expected: float | None, factor: float) -> None:
        for name, value in (
            ("drift", rise),
            ("expected_drift", rise if expected is None else expected),
            ("forget_rise", forget_rise),
            ("step_factor", factor),
        ):
            self._runner.statistics.add_to_last_step(name, torch.tensor(value))

    # ---- weights ---------------------------------------------------------------------------------

    @property
    def _runner(self) -> StepRunner:
        return self._runner_of_attempt()

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        return own_optimizer(self._trainer)

    @property
    def _bound(self) -> float:
        return self._trainer.args.max_drift

    def _parameters(self) -> list[Tensor]:
        return [local(p) for p in own_parameters(self._trainer.model) if p.requires_grad]

    def _weights_changed(self) -> bool:
        """Whether the optimizer's step has changed a trained weight, on any process."""
        pairs = zip(self._parameters(), self._before)
        return any(all_processes(any(not torch.equal(now, then) for now, then in pairs)))

    def _restore_weights(self) -> None:
        """Gives the trained weights their values from before the step."""
        torch._foreach_copy_(self._parameters(), self._before)

    def _interpolate(self, after: list[Tensor], share: float) -> None:
        """Puts the trained weights at a share of the way to `after`, those after the step."""
        self._restore_weights()
        torch._foreach_lerp_(self._parameters(), after, share)

    def _scale_rates(self) -> None:
        """Multiplies the learning rates of this step by `factor`."""
        for group, rate in zip(self._optimizer.param_groups, self._rates):
            group["lr"] = rate * self.factor

    def _restore_rates(self) -> None:
        for group, rate in zip(self._optimizer.param_groups, self._rates):
            group["lr"] = rate

    # ---- losses ----------------------------------------------------------------------------------

    def _retain_losses_before(self) -> Tensor:
        """The losses (k,) of this process's retain samples before the step: those of the step's own
        pass if it was through the network that is evaluated."""
        trainer, retain = self._trainer, self._runner.last_step.retain
        losses = retain.losses if trainer.args.freeze_randomness else None
        if losses is None or not compares_gradients(trainer.method):
            losses = self._runner.sample_losses(retain.batch)
        # Samples of earlier requests follow the retain samples.
        return losses[: retain.samples]

    def _rise(self) -> float:
        """The largest rise of a retain sample's loss, over all processes."""
        retain = self._runner.last_step.retain
        now = self._runner.sample_losses(retain.batch)[: retain.samples]
        rises = now.float() - self._retain_before.float()
        return max(all_processes(float(rises.nan_to_num(nan=torch.inf).max())))

    def _forget_loss(self) -> float:
        """The mean of what a step raises on its forget samples, over all processes."""
        runner = self._runner
        batches = map(self._trainer._prepare_inputs, runner.forget_batches.batches)
        losses = torch.cat([runner.forget_losses(batch) for batch in batches])
        sums = all_processes((float(losses.sum()), len(losses)))
        return sum(total for total, _ in sums) / sum(count for _, count in sums)


def _ratio(bound: float, rise: float) -> float:
    """By what to multiply the length of a step with this rise, so that the rise becomes AIM times
    the bound."""
    return (AIM * bound / rise) ** 0.5 if rise > 0 else float("inf")
