"""How the samples of a batch are told apart in the trainer's model: at once, by the engine, or one
by one."""

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from transformers.utils import logging

from ..per_sample import PerSampleEngine
from ..per_sample.check import MIXED, TOLERANCE, find_slow_parameters, samples_mix
from ..per_sample.reference import count_samples
from ..per_sample.shards import own_parameters, sharded_modules, whole_tensors
from .compatibility import DDP
from .exchange import SampleExchange, SharedCheck, all_processes
from .nonfinite import broken_samples, named, place_in_dataset
from .padding import MATTERS, ROWS, padding_matters, remedy_for
from .randomness import DRAWN, MASKS, Stilled
from .retain_batches import random_state_kept
from .step import TrainerStep

logger = logging.get_logger(__name__)


class SampleAccess:
    """What is found out about a trainer's model before the first step, by samples computed alone,
    and what follows.

    Attributes:
        engine: for methods that need per-sample gradients, once it was held against samples
            computed alone.
        one_by_one: whether each sample's loss has to be computed by itself, since in a batch it is
            another; None as long as nobody knows.
        checking: whether losses are computed to be compared only.
    """

    def __init__(self, trainer):
        self.trainer = trainer
        self.engine: PerSampleEngine | None = None
        self.one_by_one: bool | None = None
        self.checking = False
        # whether a sample's padding changes its loss, and is cut off
        self.without_padding: bool | None = None
        self._stilled: Stilled | None = None  # while nothing is random
        self._told_drawn = False
        self._exchange: SampleExchange | None = None

    def find_out(self, step: TrainerStep) -> None:
        """Leaves the engine None where a retain sample's gradient is not finite: nothing can be
        held against that."""
        if self.one_by_one is None:
            self.find_whether_mixed(step)
        if self.trainer.method.per_sample and self.engine is None:
            with self.trainer._attempts.at_retain_batch():
                self.engine = self._checked_engine(step)

    def find_whether_padding_matters(self) -> None:
        """Before data are loaded, by some rows of each data set that can be indexed: their losses
        without the padding that their batch gives them. (Not where accelerate has yet to bring the
        model to its device.)"""
        trainer = self.trainer
        if (
            self.without_padding is not None
            or trainer.is_deepspeed_enabled
            or trainer.is_fsdp_enabled
        ):
            return
        step = TrainerStep(trainer, trainer.model, {}, share=1.0, place=0)
        tolerance = TOLERANCE[self._precision()][2]
        matters = False
        with self._compared():
            for split, dataset in trainer.used_datasets().items():
                rows, collator = trainer.some_rows(split, dataset, ROWS)
                matters |= padding_matters(
                    rows, collator, self._loss_of(step), trainer._prepare_inputs, tolerance
                )
        # A forward pass of FSDP2 leaves whole tensors behind, which the optimizer must not take.
        own_parameters(trainer.model)
        self.without_padding = any(all_processes(matters))
        if self.without_padding:
            name = type(trainer.model).__name__
            self.compute_one_by_one(MATTERS.format(model=name, remedy=remedy_for(trainer.model)))

    def find_whether_mixed(self, step: TrainerStep) -> None:
        """Whether the model's loss of a batch is not the mean over its samples; then it is computed
        one by one."""
        if self.one_by_one:
            return
        batch, k = step.forget_batch, count_samples(step.forget_batch)
        with self._compared():
            mix = samples_mix(
                self.trainer.model,
                self._loss_of(step),
                batch,
                k,
                self._precision(),
                self._together(k),
            )
        self.one_by_one = any(all_processes(mix))
        if self.one_by_one:
            self.compute_one_by_one()

    def compute_one_by_one(self, reason: str = MIXED) -> None:
        """From here on each sample's loss is computed by itself. Raises ValueError for a model in
        shards."""
        model = self.trainer.model
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
        if reasons:
            logger.warning(
                "The per-sample gradients of these parameters are computed one sample at a time, "
                "which is exact but slow: " + self.named_reasons(reasons)
            )

    def named_reasons(self, reasons: dict[int, str]) -> str:
        """The names of some parameters, by the reasons of their ids."""
        names = defaultdict(list)
        own_parameters(self.trainer.model)
        for name, p in self.trainer.model.named_parameters():
            if id(p) in reasons:
                names[reasons[id(p)]].append(name)
        return "; ".join(f"{', '.join(some)} ({reason})" for reason, some in names.items())

    def broken(self, step: TrainerStep) -> list[str]:
        """Names of this process's samples, of the whole optimizer step, whose loss or gradient is
        not finite."""
        trainer, names = self.trainer, []
        dataset, collator = trainer.collated(trainer.train_dataset, "training")
        for batch in map(
            trainer._prepare_inputs, trainer.forget_batches if trainer.method.uses_forget else []
        ):
            places = self._broken_places(step, batch)
            names += named(
                "forget", places, [place_in_dataset(dataset, collator, batch, n) for n in places]
            )
        if step.retain_batch is not None:
            places = self._broken_places(step, step.retain_batch)
            indices = trainer.retain_sampler.batch(trainer.state.global_step)
            names += named("retain", places, [indices[n] for n in places])
        return names

    def _broken_places(self, step: TrainerStep, batch: dict) -> list[int]:
        trainer, loss_of = self.trainer, self._loss_of(step)
        if not sharded_modules(trainer.model):
            # which would take it for the next step's
            of_gradient = not trainer.is_deepspeed_enabled
            return broken_samples(trainer.model, loss_of, batch, of_gradient=of_gradient)
        every_broken = [  # a model in shards can only be computed by all processes together
            broken_samples(
                trainer.model,
                loss_of,
                trainer._prepare_inputs(of_one),
                agreed=lambda flag: any(all_processes(flag)),
            )
            for of_one in all_processes(batch)
        ]
        return every_broken[trainer.args.process_index]

    @property
    def compares_gradients(self) -> bool:
        """Whether the method compares gradients with each other, so that all must be of one
        network."""
        return self.trainer.method.projects or self.trainer.method.per_sample

    @property
    def exchange(self) -> SampleExchange:
        if self._exchange is None:
            self._exchange = SampleExchange(own_parameters(self.trainer.model))
        return self._exchange

    @contextlib.contextmanager
    def without_randomness(self, batch_norm: bool = False) -> Iterator[None]:
        """Within this context nothing in the model is random.

        Args:
            batch_norm: as in `Stilled`.
        """
        outer, self._stilled = self._stilled, Stilled(self.trainer.model, batch_norm)
        self._stilled.begin()
        try:
            yield
        finally:
            self._stilled.end()
            self._stilled = outer
            if outer:
                outer.begin()
            else:
                self.trainer.set_training_mode(self.trainer.model)

    def one_network(self) -> contextlib.AbstractContextManager:
        """The context of a step, in which a method that projects sees the network that is
        evaluated, unless the user wants what is random; other methods train as Trainer does."""
        args = self.trainer.args
        if not self.compares_gradients:
            return contextlib.nullcontext()
        if args.freeze_randomness:
            return self.without_randomness(batch_norm=not args.freeze_batch_norm)
        if not self._told_drawn:
            logger.warning(DRAWN)
            self._told_drawn = True
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def _compared(self) -> Iterator[None]:
        """Within this context losses are computed to be compared only."""
        trainer, model = self.trainer, self.trainer.model
        # not deferred to the last micro-batch, as the forget gradient's reduction is
        if trainer.accelerator.is_fsdp2:
            model.set_requires_gradient_sync(True)
        self.checking = True
        try:
            with self.without_randomness(), random_state_kept(trainer.args.device):
                yield
        finally:
            self.checking = False
        if trainer.accelerator.is_fsdp2:
            model.set_requires_gradient_sync(trainer.accelerator.sync_gradients)

    def evaluate_anew(self) -> None:
        """While nothing is random: what models have kept of parameters is computed again."""
        if self._stilled:
            self._stilled.begin()

    def _checked_engine(self, step: TrainerStep) -> PerSampleEngine | None:
        step.draw_retain_batch()
        model, batch, k = self.trainer.model, step.retain_batch, step.samples
        with self._compared():
            slow = find_slow_parameters(
                model, self._loss_of(step), batch, k, self._precision(), self._together(k)
            )
        found = all_processes(slow)
        if None in found:
            return None
        if not self.one_by_one and any(MIXED in reasons.values() for reasons in found):
            self.compute_one_by_one()  # what the forget batch did not show
        if any(found) and not self.one_by_one and not self.trainer.args.freeze_randomness:
            self.compute_one_by_one(MASKS)
        own_parameters(model)
        parameters = dict(model.named_parameters())
        slow = {parameters[name]: reason for one in found for name, reason in one.items()}
        engine = PerSampleEngine(model, slow, self.trainer.args.inner_products)
        engine.slow.update((id(p), reason) for p, reason in slow.items())
        if not self.one_by_one:
            self.warn_of_slow(engine.slow)
        return engine

    def _loss_of(self, step: TrainerStep) -> Callable[[dict], Tensor]:
        return lambda batch: step.loss(self.trainer.model, batch)

    def _precision(self) -> torch.dtype:
        model = self.trainer.model
        computing = whole_tensors(model).values() if sharded_modules(model) else model.parameters()
        own = next(p.dtype for p in computing if p.is_floating_point())
        return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(
            self.trainer.accelerator.mixed_precision, own
        )

    def _together(self, k: int) -> SharedCheck | None:
        return SharedCheck(self.exchange, k) if sharded_modules(self.trainer.model) else None
