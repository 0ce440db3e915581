"""What the trainer offers to a method within one optimizer step."""

import hashlib

import torch
from torch import Tensor, nn

from ...methods.base import RetainVisitor, RowRoles
from ...per_sample.reference import count_samples, require_gradient
from ...per_sample.shards import own_parameters
from ..batches.retain_batches import RetainBatches
from ..batches.seeded import FORGET
from ..losses.silence import Silence, forget_objective
from ..protocol import TrainerView
from ..samples.retain_rows import RetainRows, gradient_scale
from ..samples.sample_access import SampleAccess
from ..setup import deepspeed
from ..setup.prepared_models import own_optimizer
from .retain_step import RetainStep


class TrainerStep:
    """`methods.base.Step`, for one call of `UnlearnTrainer.training_step`.

    Args:
        model: the trainer's model, or the wrapper that the training calls it by.
        share: this micro-batch's share of all forget samples of the optimizer step.
        first_index: the index of its first sample among them.
        retain_batches: gives the retain batch, and says which of its samples are constraints.
        silence: gives batches the labels of silence; None with another `forget_objective`.

    Attributes:
        retain: the retain batch; None until it is drawn.
        is_last_backward: whether the next backward pass is the optimizer step's last, which
            DeepSpeed must be told.
    """

    def __init__(
        self,
        trainer: TrainerView,
        access: SampleAccess,
        model: nn.Module,
        forget_batch: dict,
        share: float,
        first_index: int,
        retain_batches: RetainBatches,
        silence: Silence | None,
    ):
        self._trainer, self._access = trainer, access
        self.model, self.forget_batch, self.first_index = model, forget_batch, first_index
        self._retain_batches, self._silence = retain_batches, silence
        if silence is not None:
            generator = self.generator(0)
            if silence.mixes_texts:
                texts = retain_batches.loaded()
                self.forget_batch = silence.with_texts_of(forget_batch, texts, generator)
            self.forget_batch = silence.with_targets_drawn(self.forget_batch, generator)
        self.retain: RetainStep | None = None
        self.is_last_backward = (
            trainer.accelerator.sync_gradients and not trainer.method.uses_retain
        )
        self.processes = trainer.args.world_size
        self.forget_weight = share * self.processes
        self.parameters = [p for p in own_parameters(trainer.model) if p.requires_grad]

    def draw_retain_batch(self) -> RetainStep:
        """Continues with the retain batch, after the last micro-batch of forget samples."""
        trainer, batches = self._trainer, self._retain_batches
        process = trainer.args.process_index
        self.is_last_backward = True
        batch = batches.of_current_step(self.forget_batch, self.generator(1))
        # All samples, how many of them are constraints, and how many of these belong to earlier
        # requests.
        counts = [[count_samples(batch), batches.constraint_samples(), batches.earlier_samples()]]
        if self.processes > 1:
            counts_here = torch.tensor(counts, device=trainer.args.device)
            counts = trainer.accelerator.gather(counts_here).tolist()
        earlier = [earlier for *_, earlier in counts]
        counts = [pair for *pair, _ in counts]
        gradients = RetainRows(
            trainer, self._access, self.model, batch, counts, self.parameters, self.backward
        )
        self.retain = RetainStep(
            batch,
            gradients,
            row_roles(counts, process, gradients.updates),
            all_samples=sum(k - constraints for k, constraints in counts),
            earlier=earlier[process],
            all_earlier=sum(earlier),
            processes=self.processes,
        )
        return self.retain

    # ---- the retain batch ------------------------------------------------------------------------

    @property
    def _drawn(self) -> RetainStep:
        if self.retain is None:
            raise RuntimeError(
                "this step has no retain batch yet: it is drawn after the last micro-batch of "
                "forget samples, so use it in `Method.retain` only"
            )
        return self.retain

    @property
    def retain_batch(self) -> dict:
        return self._drawn.batch

    @property
    def samples(self) -> int:
        return self._drawn.samples

    @property
    def first_sample(self) -> int:
        return self._drawn.gradients.first_sample

    @property
    def all_samples(self) -> int:
        return self._drawn.all_samples

    @property
    def rows(self) -> RowRoles:
        return self._drawn.rows

    @property
    def retain_weight(self) -> float:
        return self._drawn.weight

    def retain_loss(self) -> Tensor:
        return self._drawn.gradients.mean_loss() * self.retain_weight

    def visit_retain_samples(self, visit: RetainVisitor, last: bool = True) -> Tensor:
        return self._drawn.gradients.visit(visit, last) * self.retain_weight

    # ---- the step --------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        # Trainer's epoch is a sum of shares, which rounding may leave below an integer.
        return int(self._trainer.state.epoch + 1e-6)

    @property
    def progress(self) -> float:
        return self._trainer.state.global_step / max(1, self._trainer.state.max_steps)

    @property
    def gradient_scale(self) -> float:
        return gradient_scale(self._trainer.accelerator)

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        return own_optimizer(self._trainer)

    def forget_loss(self, batch: dict | None = None) -> Tensor:
        key, sign = (FORGET, self.first_index), 1.0
        limit = self._trainer.args.max_forget_loss
        if batch is None and limit is not None:
            loss = self._access.loss_below(self.model, self.forget_batch, key, limit)
            return loss * self.forget_weight
        if batch is None:
            batch, sign = forget_objective(self._silence, self.forget_batch)
        return self._access.loss(self.model, batch, key) * (sign * self.forget_weight)

    def generator(self, n: int) -> torch.Generator:
        numbers = (self._trainer.args.seed, self._trainer.state.global_step, self.first_index + n)
        seed = int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:7], "big")
        return torch.Generator().manual_seed(seed)

    def average(self, value: Tensor) -> Tensor:
        return self._trainer.accelerator.reduce(value, "mean")

    def logits(self, batch: dict, model: nn.Module | None = None) -> Tensor:
        if model is not None:
            return self._access.logits_of_other_model(model, batch)
        return self._access.logits(self.model, batch)

    def backward(self, loss: Tensor, retain_graph: bool = False) -> None:
        require_gradient(loss)
        if self._trainer.is_deepspeed_enabled:
            deepspeed.backward(self._trainer.deepspeed, loss, self.is_last_backward)
        else:
            self._trainer.accelerator.backward(loss, retain_graph=retain_graph)


def row_roles(counts: list[list[int]], process: int, updates: int) -> RowRoles:
    """What the rows of a step are.

    Args:
        counts: for each process the number of its samples, and how many of them, the last ones, are
            constraints: samples of earlier requests, or the silence of retain samples.
        updates: the number of earlier requests' updates.
    """
    samples, constraints = sum(k for k, _ in counts), []
    retained, mean = samples - sum(m for _, m in counts), []
    for k, m in counts:
        # The rows of a process are the gradients of L_n / k.
        mean += [k / retained] * (k - m) + [0.0] * m
        constraints += range(len(mean) - m, len(mean))
    start = sum(k for k, _ in counts[:process])
    own_rows = slice(start, start + counts[process][0])
    constraints += range(samples, samples + updates)
    return RowRoles(samples, own_rows, mean + [0.0] * updates, constraints)
