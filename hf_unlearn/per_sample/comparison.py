"""Compares the losses and gradients of a batch with those of some of its samples computed alone,
without the engine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from .losses import NotBySample
from .parameter_rows import ParameterRows
from .reference import sample_gradient, select_sample
from .shards import squared_norm

# By the precision of the forward pass: the largest difference between gradients in the batch and
# alone, relative to their length; the same relative to the length of the whole gradient, for
# gradients that are zero but for rounding (biases of keys); and the largest relative difference
# between losses.
TOLERANCE = {
    torch.float64: (1e-6, 1e-12, 1e-8),
    torch.float32: (1e-3, 1e-6, 1e-4),
    torch.bfloat16: (1e-1, 1e-3, 2e-2),
    torch.float16: (3e-2, 1e-3, 4e-3),
}
# The number of these is the number of samples that are computed alone. SCALES weight their losses
# in the batch, so that identical samples differ. WEIGHTS weight their gradients afterwards. A rule
# that exchanges samples, averages over them or leaves some out does not give the same weighted sum,
# even for identical samples, and even if only one of them has a gradient. Nor does a rule that
# gives a part of one sample to another, because no two weights are equal.
SCALES = (0.5, 1.0, 2.0, 3.0)
WEIGHTS = (1.0, -1.3, 0.7, -0.6)


class ShardedProcesses(Protocol):
    """What processes exchange when the model is sharded (FSDP2).

    A sharded model computes only if all processes take part. So all take the same number of passes,
    and compare the means over processes. (Implemented by the trainer.)
    """

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any process."""

    def rows(self, rows: ParameterRows) -> ParameterRows:
        """The rows of all processes."""

    def announce_given_up(self, parameter: nn.Parameter) -> None:
        """Tells the other processes that this one has given a parameter up."""

    def weights(self, weights: Tensor) -> Tensor:
        """The weights of all processes' rows for the mean over processes of their weighted sums."""


@dataclass
class SamplesAlone:
    """Some samples of a batch that were computed alone.

    indices: their indices in the batch.
    losses: their losses (number of samples,).
    gradients: the weighted sum of their gradients, for each parameter.
    """

    indices: list[int]
    losses: Tensor
    gradients: list[Tensor]


@dataclass
class BatchVsAlone:
    """Compares a batch with its samples computed alone.

    loss_of: the model's loss on a batch, a `SampleMeanLoss`, without randomness (no dropout).
    batch, k: the batch and its number of samples.
    precision: dtype of the forward pass.
    processes: given if the model is sharded.
    """

    model: nn.Module
    loss_of: Callable[[dict], Tensor]
    batch: dict
    k: int
    precision: torch.dtype
    processes: ShardedProcesses | None

    @property
    def loss_scale(self) -> float:
        return loss_scale(self.precision)

    def alone(
        self, parameters: Sequence[nn.Parameter], weights: Sequence[float] = WEIGHTS
    ) -> SamplesAlone:
        """Computes up to four samples of the batch alone."""
        indices, losses, total = [], [], None
        for n in self._candidates():
            loss = self.loss_of(select_sample(self.batch, n, self.k))
            repeated = n in indices
            # A sample whose loss is 0 has no gradient to compare.
            enough = len(indices) == len(SCALES) or (loss == 0 and n != self.k - 1)
            if not self.processes and enough:
                continue
            count = len(indices)
            factor = 0.0 if repeated else SCALES[count] * weights[count] * self.loss_scale
            gradients = sample_gradient(self.model, loss * factor, parameters)
            if total is None:
                total = gradients
            else:
                torch._foreach_add_(total, gradients)
            if not repeated:
                indices.append(n)
                losses.append(loss.detach())
        return SamplesAlone(indices, torch.stack(losses), total)

    def _candidates(self) -> list[int]:
        """Places in the batch to compute alone, starting with the last."""
        spread = list(dict.fromkeys((self.k - 1, 0, self.k // 2, self.k // 3)))
        if self.processes:
            # All processes take the same number of passes. Repeated samples do not count.
            return [*spread, *[0] * len(SCALES)][: len(SCALES)]
        return list(dict.fromkeys((*spread, *range(min(self.k, 8)))))

    def loss_in_batch(self) -> Tensor | None:
        """The loss of the batch; None if its values do not divide over the samples."""
        try:
            loss = self.loss_of(self.batch)
        except NotBySample:
            loss = None
        return None if self.on_any_process(loss is None) else loss

    def on_any_process(self, flag: bool) -> bool:
        """Whether a flag is set on any process."""
        return self.processes.any(flag) if self.processes else flag

    def is_mean(self, loss: Tensor, scales: Tensor, losses: Tensor) -> bool:
        """Whether the loss of the batch is the mean of its samples' losses times their scales."""
        terms = scales * losses.to(scales.dtype) / self.k
        bound = TOLERANCE[self.precision][2] * terms.abs().sum()
        is_mean = bool((loss.detach() - terms.sum()).abs() <= bound) or not bool(
            torch.isfinite(terms).all()
        )
        return not self.on_any_process(not is_mean)

    def gradients_differ(self, in_batch: Sequence[Tensor], alone: Sequence[Tensor]) -> bool:
        """Whether gradients of samples in the batch differ from those of samples alone."""
        length = torch.stack([norm(grad) for grad in alone]).norm()
        error = torch.stack([norm(a - b) for a, b in zip(in_batch, alone)]).norm()
        return bool(error > TOLERANCE[self.precision][0] * length)


def allowed_errors(lengths: Tensor, precision: torch.dtype) -> Tensor:
    """How much each parameter's gradient (parameters,) may differ from that of samples alone.

    Args:
        lengths: |gradient| of each parameter, of samples alone.
        precision: dtype of the forward pass.
    """
    relative, absolute, _ = TOLERANCE[precision]
    return relative * lengths + absolute * lengths.norm()


def loss_scale(precision: torch.dtype) -> float:
    """Factor on losses whose gradients would vanish in float16, like a gradient scaler's."""
    return 256.0 if precision == torch.float16 else 1.0


def norm(gradient: Tensor) -> Tensor:
    """|gradient|; all processes must call this together if it is sharded."""
    if isinstance(gradient, DTensor):
        return squared_norm(gradient).sqrt().float()
    return gradient.norm()
