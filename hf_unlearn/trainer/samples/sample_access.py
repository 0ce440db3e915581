"""How the samples of a batch are told apart in the trainer's model: all at once, by the per-sample
engine, or one by one."""

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import logging

from ...methods.outputs import output_logits
from ...per_sample import PerSampleEngine
from ...per_sample.check import MIXED, TOLERANCE, find_slow_parameters, samples_mix
from ...per_sample.inputs import own_copy
from ...per_sample.losses import NotBySample, Weights, weighted_samples
from ...per_sample.reference import count_samples, select_sample, without_ranges
from ...per_sample.shards import own_parameters, sharded_modules, whole_tensors
from ..batches.seeded import random_state_kept, seeded
from ..checks.compatibility import DDP
from ..frozen.parts import FrozenParts
from ..protocol import TrainerView
from ..randomness import (
    ALWAYS_RANDOM,
    DRAWS_DIFFER_ALONE,
    RandomnessControl,
    compares_gradients,
)
from .exchange import SampleExchange, SharedCheck
from .padding_check import PaddingCheck
from .processes import all_processes

logger = logging.get_logger(__name__)

RetainContext = Callable[[], contextlib.AbstractContextManager]


class SampleAccess:
    """Computes the losses of batches, in the way that the checks before the first step have found
    to be exact for the trainer's model.

    Attributes:
        randomness: switches the model's randomness off.
        engine: gives per-sample gradients. None until it was checked against samples computed
            alone, and for methods that need no per-sample gradients.
        one_by_one: whether each sample's loss must be computed by itself, because batching changes
            it; None until checked.
        padding: whether a sample's padding changes its loss and is therefore removed.
        frozen: keeps the outputs of the model's frozen first part.
    """

    def __init__(self, trainer: TrainerView, padding: PaddingCheck, frozen: FrozenParts):
        self._trainer, self.padding, self.frozen = trainer, padding, frozen
        self.randomness = RandomnessControl(trainer)
        self.engine: PerSampleEngine | None = None
        self.one_by_one: bool | None = True if padding.matters else None
        # Whether losses are only computed for a check, which handles `NotBySample` itself.
        self._checking = False
        self._exchange: SampleExchange | None = None
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
            if not self.one_by_one:
                # Without weights here, those that a check has set still hold.
                weighing = (
                    contextlib.nullcontext() if weights is None else weighted_samples(weights)
                )
                try:
                    with weighing:
                        return self._loss_of_one_pass(model, batch, key)
                except NotBySample:
                    # The first batches, which were checked, had losses that did divide.
                    if self._checking or self._trainer.args.world_size > 1:
                        raise
                    self.compute_one_by_one()
            k = count_samples(batch)
            losses = [
                self._loss_of_one_pass(model, select_sample(batch, n, k), key, n) for n in range(k)
            ]
            self._losses_alone = torch.stack([loss.detach() for loss in losses])
            weights = weights(self._losses_alone) if callable(weights) else weights
            return sum(losses if weights is None else map(torch.mul, losses, weights)) / k

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
        return self._losses_alone if self.one_by_one else self._trainer.last_sample_losses

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
        if not self.one_by_one:
            trainer.mean_loss(trainer.model, batch)
            if (losses := trainer.last_sample_losses) is not None:
                return losses
        samples = [select_sample(batch, n, k) for n in range(k)]
        return torch.stack([trainer.mean_loss(trainer.model, sample) for sample in samples])

    def logits(self, model: nn.Module, batch: dict) -> Tensor:
        """The logits of the model that is trained, (k, classes) or (k, T, vocabulary)."""
        with self._trainer.compute_loss_context_manager(), self.frozen.active():
            return _logits(model, batch, self.one_by_one)

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
        with self._check():
            look(*arguments, self.model_loss, self._precision())
        # A forward pass of FSDP2 leaves whole tensors behind, which the optimizer must not take.
        own_parameters(self._trainer.model)
        if self.padding.matters:
            self.compute_one_by_one(self.padding.reason)

    def check_batch_loss(self, batch: dict) -> None:
        """Finds out whether the model's loss of a batch is the mean over its samples; otherwise
        they are computed one by one from here on."""
        if self.one_by_one is not None:
            return
        k = count_samples(batch)
        with self._check():
            mix = samples_mix(
                self._trainer.model,
                self.model_loss,
                batch,
                k,
                self._precision(),
                self._together(k),
            )
        self.one_by_one = any(all_processes(mix))
        if self.one_by_one:
            self.compute_one_by_one(ALWAYS_RANDOM if self._is_random(batch) else MIXED)

    def _is_random(self, batch: dict) -> bool:
        """Whether the loss of one sample changes from pass to pass even in evaluation mode."""
        one, losses = select_sample(batch, 0, count_samples(batch)), []
        with self._check(), torch.no_grad():
            for seed in range(2):
                with seeded(seed, device=self._trainer.args.device):
                    losses.append(float(self.model_loss(one)))
        return abs(losses[0] - losses[1]) > TOLERANCE[self._precision()][2] * abs(losses[0])

    def check_engine(self, retain_batch: dict) -> None:
        """Creates the engine and finds the parameters whose per-sample gradients it cannot give.

        The engine stays None where a retain sample's gradient is not finite, because nothing can be
        compared with that.
        """
        trainer, k = self._trainer, count_samples(retain_batch)
        with self._check():
            slow_here = find_slow_parameters(
                trainer.model,
                self.model_loss,
                retain_batch,
                k,
                self._precision(),
                self._together(k),
            )
        slow_anywhere = all_processes(slow_here)
        if None in slow_anywhere:
            return
        if not self.one_by_one and any(MIXED in reasons.values() for reasons in slow_anywhere):
            # The retain batch shows what the forget batch did not.
            self.compute_one_by_one()
        if any(slow_anywhere) and not self.one_by_one and not trainer.args.freeze_randomness:
            self.compute_one_by_one(DRAWS_DIFFER_ALONE)
        self.engine = self._engine_without(slow_anywhere)
        if not self.one_by_one:
            self.warn_of_slow(self.engine.slow)

    def _engine_without(self, slow_anywhere: list[dict[str, str]]) -> PerSampleEngine:
        """An engine that leaves out what any process has found to be slow: {name: reason}."""
        model = self._trainer.model
        own_parameters(model)
        parameters = dict(model.named_parameters())
        slow = {parameters[name]: reason for one in slow_anywhere for name, reason in one.items()}
        engine = PerSampleEngine(model, slow, self._trainer.args.inner_products)
        engine.slow.update((id(p), reason) for p, reason in slow.items())
        return engine

    def compute_one_by_one(self, reason: str = MIXED) -> None:
        """From here on each sample's loss is computed by itself.

        Raises:
            ValueError: the model is sharded.
        """
        model = self._trainer.model
        if sharded_modules(model):
            raise ValueError(
                "FSDP does not work with a model whose samples must be computed one by one: "
                f"{reason}. {DDP}"
            )
        logger.warning(f"Each sample is computed by itself, which is exact but slow: {reason}.")
        self.one_by_one = True
        if self.engine is not None:
            own_parameters(model)
            self.engine.give_up([p for p in model.parameters() if p.requires_grad], reason)

    def warn_of_slow(self, reasons: dict[int, str]) -> None:
        """Warns of parameters that the engine leaves out; reasons: by the parameters' ids."""
        if reasons:
            logger.warning(
                "The per-sample gradients of these parameters are computed one sample at a time, "
                "which is exact but slow: " + self.named_reasons(reasons)
            )

    def named_reasons(self, reasons: dict[int, str]) -> str:
        """The names of some parameters with the reasons that are given for their ids."""
        names = defaultdict(list)
        own_parameters(self._trainer.model)
        for name, p in self._trainer.model.named_parameters():
            if id(p) in reasons:
                names[reasons[id(p)]].append(name)
        return "; ".join(f"{', '.join(some)} ({reason})" for reason, some in names.items())

    @property
    def exchange(self) -> SampleExchange:
        """Exchanges rows between processes."""
        if self._exchange is None:
            self._exchange = SampleExchange(own_parameters(self._trainer.model))
        return self._exchange

    def model_loss(self, batch: dict) -> Tensor:
        """The loss of a batch by the model itself, not by a wrapper as DistributedDataParallel."""
        return self.loss(self._trainer.model, batch)

    @contextlib.contextmanager
    def _check(self) -> Iterator[None]:
        """Within this context losses are only compared, and nothing is random."""
        trainer, model = self._trainer, self._trainer.model
        # FSDP2 must reduce gradients now, not at the last micro-batch as in a step.
        if trainer.accelerator.is_fsdp2:
            model.set_requires_gradient_sync(True)
        self._checking = True
        try:
            with self.randomness.off(), random_state_kept(trainer.args.device):
                yield
        finally:
            self._checking = False
        if trainer.accelerator.is_fsdp2:
            model.set_requires_gradient_sync(trainer.accelerator.sync_gradients)

    def _precision(self) -> torch.dtype:
        model = self._trainer.model
        computing = whole_tensors(model).values() if sharded_modules(model) else model.parameters()
        dtype = next(p.dtype for p in computing if p.is_floating_point())
        mixed = self._trainer.accelerator.mixed_precision
        return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(mixed, dtype)

    def _together(self, k: int) -> SharedCheck | None:
        return SharedCheck(self.exchange, k) if sharded_modules(self._trainer.model) else None


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
