"""What the steps report to the log: means over the optimizer steps since the last log entry."""

from collections import defaultdict

import torch
from accelerate import Accelerator
from torch import Tensor

LOSSES = ("forget_loss", "retain_loss", "previous_loss")


class StepStatistics:
    """Collects values, as scalars without a gradient, in the course of an optimizer step; only
    steps that are taken count."""

    def __init__(self) -> None:
        self._of_step: dict[str, list[Tensor]] = defaultdict(list)
        self._since_log: dict[str, list[Tensor]] = defaultdict(list)
        self._steps = 0

    def add(self, name: str, value: Tensor) -> None:
        """Adds a value of the current step; the values of its micro-batches are summed."""
        self._of_step[name].append(value)

    def losses_of_step(self) -> list[Tensor]:
        return [loss for name in LOSSES for loss in self._of_step.get(name, [])]

    def step_taken(self) -> None:
        self._steps += 1
        for name, values in self._of_step.items():
            self._since_log[name].append(torch.stack(values).sum())

    def add_to_last_step(self, name: str, value: Tensor) -> None:
        """Adds a value of the step that was taken last."""
        self._since_log[name].append(value)

    def end_step(self) -> None:
        """Drops the values of a step, counted or not."""
        self._of_step.clear()

    def means(self, accelerator: Accelerator) -> dict[str, float]:
        """Means over the steps since the last call. Losses, which differ between processes, are
        averaged over processes, too."""
        means = {}
        for name, values in self._since_log.items():
            mean = torch.stack([value.float() for value in values]).sum() / self._steps
            if name in LOSSES:
                mean = accelerator.reduce(mean, "mean")
            means[name] = float(mean)
        self._since_log.clear()
        self._steps = 0
        return means
