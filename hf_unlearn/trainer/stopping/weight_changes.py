"""Notes whether the optimizer's steps change the weights at all."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ...per_sample.shards import local

# How many values of each tensor are watched: those with the largest gradient.
WATCHED = 256


class WeightChanges(TrainerCallback):
    """Compares some values of each trained tensor before and after each optimizer step, until a
    step has changed one.

    Attributes:
        changed: whether a step of the run has changed a weight on this process.
        had_gradient: whether there was a gradient to watch. Some optimizers use it up at once.
    """

    def __init__(self) -> None:
        self.begin(changed=False)

    def begin(self, *, changed: bool) -> None:
        """Starts a run; `changed` if steps before its checkpoint have changed the weights."""
        self.changed, self.had_gradient = changed, False
        self._before: list[tuple[nn.Parameter, Tensor, Tensor]] = []
        self._learning_rate, self._gradient, self._held = 0.0, False, False

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not self.changed:
            self._before = list(_watched(kwargs["model"]))
            self.had_gradient |= bool(self._before)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        groups = kwargs["optimizer"].param_groups if self._before else []
        in_optimizer = {id(p) for group in groups for p in group["params"]}
        for p, indices, values in self._before:
            gradient = None if p.grad is None else _flat(p.grad)
            self.changed |= not torch.equal(_flat(p)[indices], values)
            self._gradient |= gradient is not None and bool(gradient[indices].any())
            self._held |= id(p) in in_optimizer
        rates = (abs(float(group["lr"])) for group in groups)
        self._learning_rate = max([self._learning_rate, *rates])
        self._before = []

    @property
    def reason(self) -> str:
        """Why no step has changed the weights, and what to do."""
        if not self._learning_rate:
            return (
                "the learning rate was 0 in every step. Set learning_rate above 0; with "
                "warmup_steps the first step has the learning rate 0, so take more steps"
            )
        if not self._gradient:
            return (
                "all gradients were 0. Check that the forget set is not the retain set, and that "
                "the trained parameters take part in the loss"
            )
        if not self._held:
            return (
                "the optimizer has other parameters than the model. Make it from the parameters of "
                "the model that the trainer trains (with peft_config: leave the optimizer to the "
                "trainer)"
            )
        return (
            f"the steps were too small for the weights' precision: raise learning_rate (at most "
            f"{self._learning_rate:g} was used)"
        )


def _watched(model: nn.Module) -> Iterator[tuple[nn.Parameter, Tensor, Tensor]]:
    """(parameter, indices, values) of the values with the largest gradient in each tensor."""
    for p in model.parameters():
        if p.grad is not None and _flat(p.grad).numel():
            gradient = _flat(p.grad).abs()
            indices = gradient.topk(min(WATCHED, len(gradient))).indices
            yield p, indices, _flat(p)[indices].clone()


def _flat(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds, as a vector."""
    return local(tensor.detach()).flatten()
