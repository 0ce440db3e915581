"""Finds out whether the per-sample engine can compute all samples of a batch at once, or whether
each must be computed alone."""

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from transformers.utils import logging

from ...per_sample import PerSampleEngine
from ...per_sample.check import MIXED, find_slow_parameters, samples_mix
from ...per_sample.comparison import TOLERANCE
from ...per_sample.reference import count_samples, select_sample
from ...per_sample.shards import own_parameters, sharded_modules, whole_tensors
from ..batches.seeded import random_state_kept, seeded
from ..checks.refusals import DDP
from ..processes import all_processes
from ..protocol import ModelView
from ..randomness import ALWAYS_RANDOM, DRAWS_DIFFER_ALONE, RandomnessControl
from .exchange import SampleExchange, SharedCheck

logger = logging.get_logger(__name__)

# The loss of a batch by the trainer's model.
LossOf = Callable[[dict], Tensor]


class EngineChoice:
    """Decides between the engine and one sample at a time, for a model and for each parameter.

    Args:
        randomness: switches the model's randomness off.
        one_by_one: see below.

    Attributes:
        one_by_one: whether each sample's loss must be computed by itself, because batching changes
            it; None until checked.
        engine: gives per-sample gradients. None until it was checked against samples computed
            alone, and for methods that need no per-sample gradients.
        is_checking: whether losses are only computed for a check, which handles `NotBySample`
            itself.
    """

    def __init__(self, trainer: ModelView, randomness: RandomnessControl, one_by_one: bool | None):
        self._trainer, self._randomness, self.one_by_one = trainer, randomness, one_by_one
        self.engine: PerSampleEngine | None = None
        self.is_checking = False
        self._exchange: SampleExchange | None = None

    # ---- checks ----------------------------------------------------------------------------------

    def check_batch_loss(self, batch: dict, loss_of: LossOf) -> None:
        """Finds out whether the model's loss of a batch is the mean over its samples; otherwise
        they are computed one by one from here on."""
        if self.one_by_one is not None:
            return
        k = count_samples(batch)
        with self.checking():
            mix = samples_mix(
                self._trainer.model, loss_of, batch, k, self.precision(), self._together(k)
            )
        self.one_by_one = any(all_processes(mix))
        if self.one_by_one:
            self.compute_one_by_one(ALWAYS_RANDOM if self._is_random(batch, loss_of) else MIXED)

    def _is_random(self, batch: dict, loss_of: LossOf) -> bool:
        """Whether the loss of one sample changes from pass to pass even in evaluation mode."""
        one, losses = select_sample(batch, 0, count_samples(batch)), []
        with self.checking(), torch.no_grad():
            for seed in range(2):
                with seeded(seed, device=self._trainer.args.device):
                    losses.append(float(loss_of(one)))
        return abs(losses[0] - losses[1]) > TOLERANCE[self.precision()][2] * abs(losses[0])

    def check_engine(self, retain_batch: dict, loss_of: LossOf) -> None:
        """Creates the engine and finds the parameters whose per-sample gradients it cannot give.

        The engine stays None where a retain sample's gradient is not finite, because nothing can be
        compared with that.
        """
        trainer, k = self._trainer, count_samples(retain_batch)
        with self.checking():
            slow_here = find_slow_parameters(
                trainer.model, loss_of, retain_batch, k, self.precision(), self._together(k)
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

    @contextlib.contextmanager
    def checking(self) -> Iterator[None]:
        """Within this context losses are only compared, and nothing is random."""
        trainer, model = self._trainer, self._trainer.model
        # FSDP2 must reduce gradients now, not at the last micro-batch as in a step.
        if trainer.accelerator.is_fsdp2:
            model.set_requires_gradient_sync(True)
        self.is_checking = True
        try:
            with self._randomness.off(), random_state_kept(trainer.args.device):
                yield
        finally:
            self.is_checking = False
        if trainer.accelerator.is_fsdp2:
            model.set_requires_gradient_sync(trainer.accelerator.sync_gradients)

    def precision(self) -> torch.dtype:
        """The dtype of the forward pass."""
        model = self._trainer.model
        computing = whole_tensors(model).values() if sharded_modules(model) else model.parameters()
        dtype = next(p.dtype for p in computing if p.is_floating_point())
        mixed = self._trainer.accelerator.mixed_precision
        return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(mixed, dtype)

    def _together(self, k: int) -> SharedCheck | None:
        return SharedCheck(self.exchange, k) if sharded_modules(self._trainer.model) else None

    @property
    def exchange(self) -> SampleExchange:
        """Exchanges rows between processes."""
        if self._exchange is None:
            self._exchange = SampleExchange(own_parameters(self._trainer.model))
        return self._exchange

    # ---- decisions -------------------------------------------------------------------------------

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
