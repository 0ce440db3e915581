"""What the trainer offers to a method within one optimizer step: losses, backward passes, the retain samples' rows."""

import contextlib
import functools

import torch
from accelerate.utils import find_batch_size
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from .compatibility import DDP
from .methods.base import Visitor
from .per_sample import ParameterRows, PerSampleEngine
from .per_sample.reference import per_sample_gradients, select_sample
from .per_sample.rows import Dense
from .per_sample.shards import add_gradient, own_parameters


class TrainerStep:
    """`methods.base.Step`, for one call of `UnlearnTrainer.training_step`.

    Args:
        share: of all forget samples of the optimizer step, the share that this micro-batch has.
    """

    def __init__(self, trainer, model: nn.Module, forget_batch: dict, share: float):
        self.trainer, self.model, self.forget_batch, self.share = trainer, model, forget_batch, share
        self.retain_batch: dict | None = None
        self._recorded: Tensor | None = None  # the retain loss whose graph another backward pass can go through
        self.processes = trainer.args.world_size
        self.parameters = [p for p in own_parameters(trainer.model) if p.requires_grad]
        self.alone = self.processes == 1 and not any(isinstance(p, DTensor) for p in self.parameters)

    def draw_retain_batch(self) -> None:
        self.retain_batch = self.trainer.next_retain_batch()
        self.samples = find_batch_size(self.retain_batch)
        self.counts = [self.samples]
        if self.processes > 1:
            mine = torch.tensor([self.samples], device=self.trainer.args.device)
            self.counts = self.trainer.accelerator.gather(mine).tolist()
        self.all_samples, self.first_sample = sum(self.counts), sum(self.counts[: self.trainer.args.process_index])

    def forget_loss(self) -> Tensor:
        return self.loss(self.model, self.forget_batch) * (self.share * self.processes)

    def retain_loss(self) -> Tensor:
        return self.loss(self.model, self.retain_batch) * self._retain_share()

    def _retain_share(self) -> float:
        """By which a mean over this process's retain samples counts in the mean over processes."""
        return self.samples * self.processes / self.all_samples

    def loss(self, model: nn.Module, batch: dict) -> Tensor:
        trainer, k = self.trainer, find_batch_size(batch)
        with trainer.compute_loss_context_manager():
            if not trainer.one_by_one:
                return trainer.compute_loss(model, dict(batch))
            return sum(trainer.compute_loss(model, select_sample(batch, n, k)) for n in range(k)) / k

    def backward(self, loss: Tensor, **keywords) -> None:
        self.trainer.accelerator.backward(loss, **keywords)

    def visit_retain_samples(self, visit: Visitor, last: bool = True) -> Tensor:
        trainer, k = self.trainer, self.samples
        engine = trainer.per_sample_engine(lambda batch: self.loss(trainer.model, batch), self.retain_batch, k)
        # DistributedDataParallel reduces one backward pass for each forward pass: it gets a new one for the last.
        again = not last and self.alone
        with contextlib.nullcontext() if last else trainer.accelerator.no_sync(self.model):
            if self._recorded is None:
                with engine.record(k):
                    self._recorded = self.loss(self.model, self.retain_batch)
            loss, visit = self._recorded, self._with_all_processes(visit)
            total = loss + self._awaited(engine) if last else loss
            known = set(engine.slow)
            if total.requires_grad:  # not where all parameters are slow
                missed = trainer.sample_exchange().missed if not self.alone else None
                engine.backward(functools.partial(self.backward, total, retain_graph=again), visit, again, missed)
            trainer.warn_of_slow({id: reason for id, reason in engine.slow.items() if id not in known})
        if not again:
            self._recorded = None
        self._visit_slow(engine, visit)
        return loss.detach() * self._retain_share()

    def _awaited(self, engine: PerSampleEngine) -> Tensor | float:
        """Nothing, but a use of what the engine leaves out, for a DistributedDataParallel that waits for all parameters
        (with gradient checkpointing; else it is told what the forward pass has not used)."""
        if not isinstance(self.model, DistributedDataParallel) or self.model.find_unused_parameters:
            return 0.0
        return sum(p.sum() * 0 for p in self._slow(engine))

    def _slow(self, engine: PerSampleEngine) -> list[nn.Parameter]:
        return [p for p in self.parameters if id(p) in engine.slow]

    def _with_all_processes(self, visitor: Visitor):
        if self.alone:
            return lambda rows: visitor(rows, rows)
        exchange = self.trainer.sample_exchange()
        return lambda rows: visitor(rows, exchange.all_rows(rows, self.counts))

    def _visit_slow(self, engine: PerSampleEngine, visit) -> None:
        """The same for the parameters that the engine leaves out: one pass for each sample."""
        trainer, k = self.trainer, self.samples
        slow = self._slow(engine)
        if not slow:
            return
        if any(isinstance(p, DTensor) for p in slow):
            raise ValueError(
                "FSDP does not work with parameters whose gradients must be computed one sample at a time: "
                f"{trainer.named_reasons(engine.slow)}. {DDP}"
            )
        scaler = trainer.accelerator.scaler
        scale = (scaler.get_scale() if scaler is not None else 1.0) / k

        def loss_of(batch):
            return self.loss(trainer.model, batch) * scale

        gradients = list(per_sample_gradients(trainer.model, loss_of, self.retain_batch, k, slow))
        for parameter, rows in zip(slow, zip(*gradients)):
            gradient = visit(ParameterRows(parameter, [Dense(torch.stack(rows))]))
            if gradient is not None:
                gradient = trainer.accelerator.reduce(gradient, "mean")
                add_gradient(parameter, gradient)
