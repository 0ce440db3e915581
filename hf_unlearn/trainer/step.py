"""What the trainer offers to a method within one optimizer step: losses, backward passes, the
retain samples' rows."""

import contextlib
import functools
import hashlib

import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from ..methods.base import RetainVisitor
from ..methods.outputs import logits_of
from ..per_sample import ParameterRows, PerSampleEngine
from ..per_sample.inputs import own_copy
from ..per_sample.losses import NotBySample
from ..per_sample.reference import count_samples, sample_gradient, select_sample
from ..per_sample.rows import Dense
from ..per_sample.shards import add_gradient, own_parameters
from . import deepspeed
from .compatibility import DDP, checkpoints_activations
from .randomness import MASKS
from .retain_batches import FORGET, RETAIN, seeded


class TrainerStep:
    """`methods.base.Step`, for one call of `UnlearnTrainer.training_step`.

    Args:
        share: of all forget samples of the optimizer step, the share that this micro-batch has.
        place: of its first sample among them.

    last: whether the next backward pass is the optimizer step's last (DeepSpeed must be told).
    """

    def __init__(self, trainer, model: nn.Module, forget_batch: dict, share: float, place: int):
        self.trainer, self.model, self.forget_batch, self.place = (
            trainer,
            model,
            forget_batch,
            place,
        )
        self.retain_batch: dict | None = None
        self.last = trainer.accelerator.sync_gradients and not trainer.method.uses_retain
        # the retain loss, of which another pass can show the rows
        self._recorded: Tensor | None = None
        self._replays = False  # and this needs no backward pass
        self.processes = trainer.args.world_size
        self.forget_weight = share * self.processes
        self.parameters = [p for p in own_parameters(trainer.model) if p.requires_grad]
        self.alone = self.processes == 1 and not any(
            isinstance(p, DTensor) for p in self.parameters
        )

    def draw_retain_batch(self) -> None:
        self.last = True
        self.retain_batch = self.trainer.next_retain_batch()
        self.samples = count_samples(self.retain_batch)
        self.counts = [self.samples]
        if self.processes > 1:
            mine = torch.tensor([self.samples], device=self.trainer.args.device)
            self.counts = self.trainer.accelerator.gather(mine).tolist()
        self.all_samples, self.first_sample = (
            sum(self.counts),
            sum(self.counts[: self.trainer.args.process_index]),
        )

    @property
    def retain_weight(self) -> float:
        return self.samples * self.processes / self.all_samples

    @property
    def epoch(self) -> int:
        # a sum of shares, which rounding may leave below a whole number
        return int(self.trainer.state.epoch + 1e-6)

    @property
    def progress(self) -> float:
        return self.trainer.state.global_step / max(1, self.trainer.state.max_steps)

    @property
    def gradient_scale(self) -> float:
        scaler = self.trainer.accelerator.scaler
        return scaler.get_scale() if scaler is not None else 1.0

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        optimizer = self.trainer.optimizer
        return optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer

    def forget_loss(self, batch: dict | None = None) -> Tensor:
        batch = self.forget_batch if batch is None else batch
        return self.loss(self.model, batch, (FORGET, self.place)) * self.forget_weight

    def retain_loss(self) -> Tensor:
        return (
            self.loss(self.model, self.retain_batch, (RETAIN, self.first_sample))
            * self.retain_weight
        )

    def generator(self, n: int) -> torch.Generator:
        numbers = (self.trainer.args.seed, self.trainer.state.global_step, self.place + n)
        seed = int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:7], "big")
        return torch.Generator().manual_seed(seed)

    def average(self, value: Tensor) -> Tensor:
        return self.trainer.accelerator.reduce(value, "mean")

    def logits(self, batch: dict, model: nn.Module | None = None) -> Tensor:
        trainer = self.trainer
        if model is not None:
            with torch.no_grad(), trainer.accelerator.autocast():
                return self._logits(model, batch, trainer.samples.without_padding)
        with trainer.compute_loss_context_manager():
            return self._logits(self.model, batch, trainer.samples.one_by_one)

    def _logits(self, model: nn.Module, batch: dict, one_by_one: bool | None) -> Tensor:
        if not one_by_one:
            return logits_of(model(**own_copy(batch)))
        k = count_samples(batch)
        each = [logits_of(model(**own_copy(select_sample(batch, n, k))))[0] for n in range(k)]
        return (
            torch.nn.utils.rnn.pad_sequence(each, batch_first=True)
            if each[0].ndim > 1
            else torch.stack(each)
        )

    def loss(self, model: nn.Module, batch: dict, place: tuple[int, int] | None = None) -> Tensor:
        """The mean over the samples of their losses.

        Args:
            place: forget or retain samples, and the place of the first among those of the step:
                what random numbers depend on where each pass over these samples must draw the same.
        """
        trainer, k = self.trainer, count_samples(batch)
        trainer.samples.evaluate_anew()
        with trainer.compute_loss_context_manager():
            if not trainer.samples.one_by_one:
                try:
                    return self._loss_of_one_pass(model, batch, place)
                except NotBySample:  # the first batches had losses that did divide
                    if trainer.samples.checking or self.processes > 1:
                        raise
                    trainer.samples.compute_one_by_one()
            return (
                sum(
                    self._loss_of_one_pass(model, select_sample(batch, n, k), place, n)
                    for n in range(k)
                )
                / k
            )

    def _loss_of_one_pass(
        self, model: nn.Module, batch: dict, place: tuple[int, int] | None, n: int = 0
    ) -> Tensor:
        trainer, args = self.trainer, self.trainer.args
        if place is None or not trainer.samples.compares_gradients:
            return trainer.mean_loss(model, batch)
        split, first = place
        with seeded(args.seed, split, trainer.state.global_step, first + n, device=args.device):
            return trainer.mean_loss(model, batch)

    def backward(self, loss: Tensor, **keywords) -> None:
        if self.trainer.is_deepspeed_enabled:
            deepspeed.backward(self.trainer.deepspeed, loss, self.last)
        else:
            self.trainer.accelerator.backward(loss, **keywords)

    def visit_retain_samples(self, visit: RetainVisitor, last: bool = True) -> Tensor:
        trainer, engine = self.trainer, self.trainer.samples.engine
        again, visit = None if last else self._again(), self._with_all_processes(visit)
        if self._replays:
            engine.replay(visit, again=not last)
        else:
            with contextlib.nullcontext() if last else trainer.accelerator.no_sync(self.model):
                if self._recorded is None:
                    with engine.record(self.samples, self.retain_batch):
                        self._recorded = self.loss(
                            self.model, self.retain_batch, (RETAIN, self.first_sample)
                        )
                    self._refuse_masks_of_one()
                total, known = (
                    self._recorded + (self._awaited(engine) if last else 0),
                    set(engine.slow),
                )
                if total.requires_grad:  # not where all parameters are slow
                    backward = functools.partial(
                        self.backward, total, retain_graph=again == "backward"
                    )
                    missed = None if self.alone else trainer.samples.exchange.missed
                    engine.backward(backward, visit, again, missed)
                    self._replays = again == "replay"
                trainer.samples.warn_of_slow(
                    {id: reason for id, reason in engine.slow.items() if id not in known}
                )
                self._refuse_masks_of_one()
        loss = self._recorded.detach()
        if again is None:
            self._recorded = None
        elif self._replays:
            self._recorded = loss  # its graph is used up
        self._visit_slow(engine, visit)
        return loss * self.retain_weight

    def _refuse_masks_of_one(self) -> None:
        """Raises ValueError where random numbers are drawn for a batch, and only now parameters
        turn out to need samples alone, which cannot draw the same."""
        samples = self.trainer.samples
        if (
            samples.engine.slow
            and not samples.one_by_one
            and not self.trainer.args.freeze_randomness
        ):
            raise ValueError(
                f"freeze_randomness=False does not work here: {MASKS}: "
                f"{samples.named_reasons(samples.engine.slow)}. Set it "
                "to True."
            )

    def _again(self) -> str | None:
        """How the rows are seen in another pass: DistributedDataParallel reduces one backward pass
        for each forward pass, so it gets a new one; what checkpoints save must not be kept after
        all."""
        if not self.alone:
            return None
        return "backward" if checkpoints_activations(self.trainer.model) else "replay"

    def _awaited(self, engine: PerSampleEngine) -> Tensor | float:
        """Nothing, but a use of what the engine leaves out, for a DistributedDataParallel that
        waits for all parameters (with gradient checkpointing; else it is told what the forward pass
        has not used)."""
        if not isinstance(self.model, DistributedDataParallel) or self.model.find_unused_parameters:
            return 0.0
        return sum(p.sum() * 0 for p in self._slow(engine))

    def _slow(self, engine: PerSampleEngine) -> list[nn.Parameter]:
        return [p for p in self.parameters if id(p) in engine.slow]

    def _with_all_processes(self, visitor: RetainVisitor):
        if self.alone:
            return lambda rows: visitor(rows, rows)
        exchange = self.trainer.samples.exchange
        return lambda rows: visitor(rows, exchange.all_rows(rows, self.counts))

    def _visit_slow(self, engine: PerSampleEngine, visit) -> None:
        """The same for the parameters that the engine leaves out: one pass for each sample."""
        trainer, k, batch = self.trainer, self.samples, self.retain_batch
        slow = self._slow(engine)
        if not slow:
            return
        if any(isinstance(p, DTensor) for p in slow):
            raise ValueError(
                "FSDP does not work with parameters whose gradients must be computed one sample at "
                "a time: "
                f"{trainer.samples.named_reasons(engine.slow)}. {DDP}"
            )
        gradients = []
        for n in range(k):
            loss = self.loss(
                trainer.model, select_sample(batch, n, k), (RETAIN, self.first_sample + n)
            )
            gradients.append(sample_gradient(trainer.model, loss * self.gradient_scale / k, slow))
        for parameter, rows in zip(slow, zip(*gradients)):
            gradient = visit(ParameterRows(parameter, [Dense(torch.stack(rows))]))
            if gradient is not None:
                gradient = trainer.accelerator.reduce(gradient, "mean")
                add_gradient(parameter, gradient)
