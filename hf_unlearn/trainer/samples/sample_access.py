"""Computes the losses and logits of batches in the trainer's model, all samples at once or one by
one."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...methods.outputs import output_logits
from ...per_sample.inputs import own_copy
from ...per_sample.losses import NotBySample, Weights, weighted_samples
from ...per_sample.reference import count_samples, select_sample, without_ranges
from ...per_sample.shards import own_parameters
from ..batches.seeded import seeded
from ..frozen.parts import FrozenParts
from ..losses.time_masks import time_masks_that_fit
from ..protocol import LossView
from ..randomness import RandomnessControl, compares_gradients
from .engine_choice import EngineChoice
from .padding_check import PaddingCheck

RetainContext = Callable[[], contextlib.AbstractContextManager]


class SampleAccess:
    """Computes the losses of batches, in the way that the checks before the first step have found
    to be exact for the trainer's model.

    Attributes:
        randomness: switches the model's randomness off.
        engine_choice: decides between the per-sample engine and one sample at a time.
        padding: whether a sample's padding changes its loss and is therefore removed.
        frozen: keeps the outputs of the model's frozen first part.
    """

    def __init__(self, trainer: LossView, padding: PaddingCheck, frozen: FrozenParts):
        self._trainer, self.padding, self.frozen = trainer, padding, frozen
        self.randomness = RandomnessControl(trainer)
        one_by_one = True if padding.matters else None
        self.engine_choice = EngineChoice(trainer, self.randomness, one_by_one)
        # The losses of the samples of the batch that was computed one by one last.
        self._losses_alone: Tensor | None = None
        # Whether the model's loss is a single loss, which shows the samples' losses; None until
        # `loss_below` has seen it.
        self._shows_losses: bool | None = None

    # ---- losses ----------------------------------------------------------------------------------

    def loss(
        self,
        model: nn.Module,
        batch: dict,
        key: tuple[int, int] | None = None,
        weights: Weights | None = None,
    ) -> Tensor:
        """The mean of the losses of a batch's samples.

        Args:
            model: the trainer's model, or the wrapper that the training calls it by.
            key: (FORGET or RETAIN, index of the first sample among those of the step), if every
                pass over these samples in this step must draw the same random numbers.
            weights: what the samples' losses are multiplied with (k,), or a function that gives it
                from these losses (k,); default: 1.

        Raises:
            NotBySample: in a check, or with several processes, the loss of the batch does not
                divide over its samples.
        """
        self.randomness.clear_caches()
        with self._trainer.compute_loss_context_manager():
            if not self.engine_choice.one_by_one:
                # With weights=None, the weights that an enclosing check has set still apply.
                weighing = (
                    contextlib.nullcontext() if weights is None else weighted_samples(weights)
                )
                try:
                    with weighing:
                        return self._loss_of_one_pass(model, batch, key)
                except NotBySample:
                    # The first batches, which were checked, had losses that did divide.
                    if self.engine_choice.is_checking or self._trainer.args.world_size > 1:
                        raise
                    self.engine_choice.compute_one_by_one()
            k = count_samples(batch)
            losses = [
                self._loss_of_one_pass(model, select_sample(batch, n, k), key, n) for n in range(k)
            ]
            self._losses_alone = torch.stack([loss.detach() for loss in losses])
            weights = weights(self._losses_alone) if callable(weights) else weights
            parts = losses if weights is None else map(torch.mul, losses, weights)
            return functools.reduce(torch.add, parts) / k

    def loss_below(
        self, model: nn.Module, batch: dict, key: tuple[int, int], limit: float
    ) -> Tensor:
        """As `loss`, but samples whose loss in the network that is evaluated has reached the limit
        have no gradient.

        The pass itself shows these losses, unless there are several processes, or the model draws
        random numbers in training or combines several losses. Then they take a pass of their own.
        """

        def below(losses: Tensor) -> Tensor:
            return (losses < limit).to(losses.dtype)

        losses = None
        # Processes would have to agree on how many passes they make.
        alone = self._trainer.args.world_size == 1
        if alone and self.randomness.is_off and self._shows_losses is not False:
            loss = self.loss(model, batch, key, below)
            losses = self.losses_of_last_pass
            if losses is None:
                self._shows_losses = False
            elif below(losses).any():
                self._shows_losses = True
            elif not self._shows_losses:
                # All weights are 0, so the model's loss shows nothing.
                losses = None
        if losses is None:
            losses = self.sample_losses(batch)
            loss = self.loss(model, batch, key, below(losses))
        return loss + (losses * (1 - below(losses))).mean()

    @property
    def losses_of_last_pass(self) -> Tensor | None:
        """The losses (k,) of the batch whose `loss` was computed last, without a gradient; None if
        the model combines several losses, which do not show them."""
        return (
            self._losses_alone
            if self.engine_choice.one_by_one
            else self._trainer.last_sample_losses
        )

    def _loss_of_one_pass(
        self, model: nn.Module, batch: dict, key: tuple[int, int] | None, n: int = 0
    ) -> Tensor:
        trainer, args = self._trainer, self._trainer.args
        if key is None or not compares_gradients(trainer.method):
            return trainer.mean_loss(model, batch)
        split, first = key
        with seeded(args.seed, split, trainer.state.global_step, first + n, device=args.device):
            return trainer.mean_loss(model, batch)

    @torch.no_grad()
    def sample_losses(self, batch: dict) -> Tensor:
        """The losses (k,) of a batch's samples in the network that is evaluated."""
        with self.randomness.off(), self._trainer.compute_loss_context_manager():
            losses = self._losses_of_samples(batch)
        # A forward pass of FSDP2 leaves whole tensors behind, which `zero_grad` must not take.
        own_parameters(self._trainer.model)
        return losses

    def _losses_of_samples(self, batch: dict) -> Tensor:
        trainer, k = self._trainer, count_samples(batch)
        if not self.engine_choice.one_by_one:
            trainer.mean_loss(trainer.model, batch)
            if (losses := trainer.last_sample_losses) is not None:
                return losses
        samples = [select_sample(batch, n, k) for n in range(k)]
        return torch.stack([trainer.mean_loss(trainer.model, sample) for sample in samples])

    def logits(self, model: nn.Module, batch: dict) -> Tensor:
        """The logits of the model that is trained, (k, classes) or (k, T, vocabulary)."""
        with (
            self._trainer.compute_loss_context_manager(),
            self.frozen.active(),
            time_masks_that_fit(model),
        ):
            return _logits(model, batch, self.engine_choice.one_by_one)

    def logits_of_other_model(self, model: nn.Module, batch: dict) -> Tensor:
        """The logits of another model, such as a teacher, without a gradient."""
        with torch.no_grad(), self._trainer.accelerator.autocast():
            return _logits(model, batch, self.padding.matters)

    # ---- checks ----------------------------------------------------------------------------------

    def check_padding(self, at_retain: RetainContext = contextlib.nullcontext) -> None:
        """Finds out whether padding changes losses, from some rows of each dataset that the method
        uses; `with_padding_checked` does the rest for a stream.

        Args:
            at_retain: the context for computing retain samples.
        """
        if self.padding.matters is None:
            self._look_at_padding(self.padding.of_rows, at_retain)

    def with_padding_checked(
        self, batch: dict, at_retain: RetainContext = contextlib.nullcontext
    ) -> dict:
        """The batch as the model gets it. For a stream, the padding check is finished with this
        batch first."""
        self.check_padding(at_retain)
        if self.padding.matters is None:
            self._look_at_padding(self.padding.of_batch, batch)
        return batch if self.padding.matters else without_ranges(batch)

    def _look_at_padding(self, look: Callable, *arguments: Any) -> None:
        with self.engine_choice.checking():
            look(*arguments, self.model_loss, self.engine_choice.precision())
        # A forward pass of FSDP2 leaves whole tensors behind, which the optimizer must not take.
        own_parameters(self._trainer.model)
        if self.padding.matters:
            self.engine_choice.compute_one_by_one(self.padding.reason)

    def model_loss(self, batch: dict) -> Tensor:
        """The loss of a batch by the model itself, not by a wrapper such as DDP."""
        return self.loss(self._trainer.model, batch)


def _logits(model: nn.Module, batch: dict, one_by_one: bool | None) -> Tensor:
    if not one_by_one:
        return output_logits(model(**own_copy(batch)))
    k = count_samples(batch)
    each = [output_logits(model(**own_copy(select_sample(batch, n, k))))[0] for n in range(k)]
    if each[0].ndim > 1:
        # (k, T, vocabulary)
        return torch.nn.utils.rnn.pad_sequence(each, batch_first=True)
    # (k, classes)
    return torch.stack(each)
