"""Shows a method the per-sample gradients of the retain batch, parameter by parameter."""

import contextlib
import functools
from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from ...methods.base import RetainVisitor
from ...per_sample import ParameterRows
from ...per_sample.parameter_rows import AddedRows
from ...per_sample.reference import sample_gradient, select_sample
from ...per_sample.rows import Dense
from ...per_sample.shards import add_gradient
from ..batches.seeded import RETAIN
from ..checks.refusals import DDP
from ..protocol import TrainerView
from ..randomness import DRAWS_DIFFER_ALONE, checkpoints_activations
from .sample_access import SampleAccess

# Gets the rows of this process, and returns what to add to the gradient.
OwnRowsVisitor = Callable[[ParameterRows], Tensor | None]


def gradient_scale(accelerator: Accelerator) -> float:
    """The factor that a gradient scaler multiplies gradients by; 1 without a scaler."""
    return accelerator.scaler.get_scale() if accelerator.scaler is not None else 1.0


class RetainRows:
    """The retain batch of one optimizer step, and the rows of its gradients.

    Args:
        model: the trainer's model, or the wrapper that the training calls it by.
        batch: this process's retain samples, then those that are only constraints: the samples of
            earlier requests, and the silence of all of them with that `forget_objective`.
        counts: for each process the number of these samples, and how many of them are constraints.
        parameters: the trainable parameters.
        backward: `TrainerStep.backward`.
    """

    def __init__(
        self,
        trainer: TrainerView,
        access: SampleAccess,
        model: nn.Module,
        batch: dict,
        counts: list[list[int]],
        parameters: list[nn.Parameter],
        backward: Callable[..., None],
    ):
        self._trainer, self._access, self._model = trainer, access, model
        self._choice = access.engine_choice
        self._batch, self._parameters, self._backward = batch, parameters, backward
        process, self.counts = trainer.args.process_index, [k for k, _ in counts]
        self.k, self.first_sample = self.counts[process], sum(self.counts[:process])
        # How many of the samples are retained; the constraints follow them.
        self.retained = self.k - counts[process][1]
        # The losses of the constraints in the last pass.
        self.constraint_losses: Tensor | None = None
        # The updates of earlier requests: their number, and what gives them for each parameter.
        updates = trainer.previous_updates
        self.updates = 0 if updates is None else len(updates)
        self._update_rows = {} if updates is None else updates.rows(trainer.model)
        self._shown: set[int] = set()
        # Whether no rows have to be exchanged: one process, and no parameter in shards.
        self._alone = len(counts) == 1 and not any(isinstance(p, DTensor) for p in parameters)
        # The samples' losses (k,) in the last pass over the batch; None if it did not show them.
        self.sample_losses: Tensor | None = None
        # The loss of the recorded forward pass. Its graph is kept until the last visit.
        self._recorded: Tensor | None = None
        # Whether another pass shows rows that the engine has kept, without a backward pass.
        self._replays = False

    def mean_loss(self) -> Tensor:
        """The mean loss of this process's samples."""
        loss = self._access.loss(self._model, self._batch, (RETAIN, self.first_sample))
        # Only step control and earlier requests need them, and reading them makes the host wait for
        # the GPU.
        if self._trainer.args.step_control != "none" or self.retained < self.k:
            self.sample_losses = self._access.losses_of_last_pass
        return loss

    def _retain_loss(self, loss: Tensor) -> Tensor:
        """The mean loss of this process's retain samples, from that of all its samples."""
        if self.retained == self.k:
            return loss
        losses = self.sample_losses
        losses = self._access.sample_losses(self._batch) if losses is None else losses
        self.constraint_losses = losses[self.retained :]
        return losses[: self.retained].mean()

    def visit(self, visit: RetainVisitor, last: bool) -> Tensor:
        """As `methods.base.Step.visit_retain_samples`; returns the mean loss of this process's
        retain samples, without a gradient."""
        engine, show = self._choice.engine, self._with_all_rows(visit)
        self._shown = set()
        next_pass = None if last else self._next_pass_mode()
        if self._replays:
            engine.replay(show, not last)
        else:
            self._forward_backward(show, last, next_pass)
        loss = self._recorded.detach()
        if next_pass is None:
            self._recorded = None
        elif self._replays:
            # The backward pass has used up the graph.
            self._recorded = loss
        self._visit_slow(show)
        self._visit_rest(show)
        return self._retain_loss(loss)

    def _forward_backward(self, show: OwnRowsVisitor, last: bool, next_pass: str | None) -> None:
        """One backward pass over the retain batch, after a forward pass if there is none to go back
        through."""
        engine = self._choice.engine
        no_sync = self._trainer.accelerator.no_sync
        with contextlib.nullcontext() if last else no_sync(self._model):
            if self._recorded is None:
                with engine.record(self.k, self._batch):
                    self._recorded = self.mean_loss()
                self._refuse_randomness_of_slow_parameters()
            loss = self._recorded + (self._zero_of_slow_parameters() if last else 0)
            slow_before = set(engine.slow)
            # If all parameters are slow, the loss has no gradient.
            if loss.requires_grad:
                retained = next_pass == "backward"
                backward = functools.partial(self._backward, loss, retain_graph=retained)
                tell_others = None if self._alone else self._choice.exchange.announce_given_up
                engine.backward(backward, show, next_pass, tell_others)
                self._replays = next_pass == "replay"
            self._choice.warn_of_slow(
                {id: reason for id, reason in engine.slow.items() if id not in slow_before}
            )
            self._refuse_randomness_of_slow_parameters()

    def _next_pass_mode(self) -> str | None:
        """How the engine shows the rows in another pass (`PerSampleEngine.backward`); None if the
        next pass needs a forward pass of its own.

        DistributedDataParallel reduces gradients once per forward pass, so it gets a new one. With
        gradient checkpointing the graph is kept, because keeping the rows would cost the memory
        that checkpointing saves.
        """
        if not self._alone:
            return None
        return "backward" if checkpoints_activations(self._trainer.model) else "replay"

    def _with_all_rows(self, visit: RetainVisitor) -> OwnRowsVisitor:
        """A visitor that gets the rows of this process's samples and hands on, with them, those of
        all processes and of earlier requests' updates."""
        if self._alone:
            return lambda rows: visit(*[self._with_updates(rows)] * 2)
        exchange = self._choice.exchange
        return lambda rows: visit(rows, exchange.all_rows(rows, self.counts))

    def _with_updates(self, rows: ParameterRows) -> ParameterRows | AddedRows:
        self._shown.add(id(rows.parameter))
        if not self.updates:
            return rows
        return AddedRows(rows, self._update_rows[id(rows.parameter)]())

    def _visit_rest(self, show: OwnRowsVisitor) -> None:
        """Shows the parameters that no sample of the batch depends on, if they have rows of earlier
        requests' updates."""
        for p in self._parameters if self.updates else ():
            if id(p) not in self._shown:
                none = p.detach().new_zeros(()).expand(self.k, *p.shape)
                add_gradient(p, show(ParameterRows(p, [Dense(none)])))

    # ---- parameters that the engine leaves out ---------------------------------------------------

    def _slow_parameters(self) -> list[nn.Parameter]:
        return [p for p in self._parameters if id(p) in self._choice.engine.slow]

    def _refuse_randomness_of_slow_parameters(self) -> None:
        """Raises ValueError if parameters turn out to need samples computed alone after random
        numbers were drawn for the batch: a sample alone cannot draw the same."""
        slow = self._choice.engine.slow
        if slow and not self._choice.one_by_one and not self._trainer.args.freeze_randomness:
            raise ValueError(
                f"freeze_randomness=False does not work here: {DRAWS_DIFFER_ALONE}: "
                f"{self._choice.named_reasons(slow)}. Set it to True."
            )

    def _zero_of_slow_parameters(self) -> Tensor | float:
        """A zero that depends on the slow parameters, so that DistributedDataParallel gets a
        gradient for each.

        With gradient checkpointing, DDP waits for every parameter. Otherwise
        `find_unused_parameters` tells it which are unused.
        """
        model = self._model
        if not isinstance(model, DistributedDataParallel) or model.find_unused_parameters:
            return 0.0
        return sum(p.sum() * 0 for p in self._slow_parameters())

    def _visit_slow(self, show: OwnRowsVisitor) -> None:
        """Shows the rows of the parameters that the engine leaves out, with one pass for each
        sample."""
        trainer, slow = self._trainer, self._slow_parameters()
        if not slow:
            return
        if any(isinstance(p, DTensor) for p in slow):
            raise ValueError(
                "FSDP does not work with parameters whose gradients must be computed one sample at "
                f"a time: {self._choice.named_reasons(self._choice.engine.slow)}. {DDP}"
            )
        for parameter, rows in zip(slow, zip(*self._sample_gradients(slow))):
            gradient = show(ParameterRows(parameter, [Dense(torch.stack(rows))]))
            if gradient is not None:
                gradient = trainer.accelerator.reduce(gradient, "mean")
                add_gradient(parameter, gradient)

    def _sample_gradients(self, parameters: list[nn.Parameter]) -> list[list[Tensor]]:
        """Each sample's part of the gradient of the (scaled) mean loss."""
        model, k = self._trainer.model, self.k
        scale = gradient_scale(self._trainer.accelerator)
        gradients = []
        for n in range(k):
            sample = select_sample(self._batch, n, k)
            loss = self._access.loss(model, sample, (RETAIN, self.first_sample + n))
            gradients.append(sample_gradient(model, loss * scale / k, parameters))
        return gradients
