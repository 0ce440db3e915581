"""Turns a model's batch loss into the mean of the losses that its samples have alone.

Models average over the tokens of a batch, so a sample's share of the loss depends on padding and on
the lengths of the other samples. Here the loss of a batch is the mean over its samples of what the
model returns for each sample alone: padding and batch composition change nothing. The model itself
is not modified. Its calls of the loss functions in `torch.nn.functional` are intercepted while it
computes.

Two arguments of losses only have a meaning between samples, and would cancel in a sample alone:

- *Class weights* (`cross_entropy` and `nll_loss` with `weight=`). Torch divides the weighted sum by
  the sum of the weights, so the weight would not change the loss of a sample with one label. Here a
  sample's loss is the mean of its labels' weighted losses, sum_t w[y_t] l_t / T for T labels, as in
  torch's `binary_cross_entropy`. So a class of twice the weight has twice the gradient.
- *num_items_in_batch*, the number of labels in a batch. Trainer gives it to loss functions that sum
  and then divide. Here each sample's sum is divided by the number of its own labels (`labels` of
  `SampleMeanLoss`).
"""

import contextlib
import inspect
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class NotBySample(ValueError):
    """The values of a loss do not divide evenly over the samples of the batch."""


# Weights (k,), or what gives them from the samples' losses (k,).
Weights = Tensor | Callable[[Tensor], Tensor]
_WEIGHTS: ContextVar[Weights | None] = ContextVar("weights of the samples' losses", default=None)


@contextlib.contextmanager
def weighted_samples(weights: Weights) -> Iterator[None]:
    """Makes `SampleMeanLoss` return mean_n(w_n L_n) within this context."""
    token = _WEIGHTS.set(weights)
    try:
        yield
    finally:
        _WEIGHTS.reset(token)


class SampleMeanLoss(TorchFunctionMode):
    """Makes loss functions that reduce over the batch return the mean over samples.

    Args:
        samples: number of samples k in the batch. Losses are laid out batch-first, as everywhere in
            transformers: the leading axis is k, or k with other axes folded into it.
        strict: raise `NotBySample` if the values of a loss do not divide over the samples (such as
            losses at positions that a mask selects). Otherwise such a loss stays a mean over the
            batch.
        labels: the number of labels of each sample (k,), for losses that are summed and then
            divided by `items`.

    Attributes:
        items: the number of labels in the batch, a 0-d tensor, to be passed as
            `num_items_in_batch`; None without labels.
        undivided: whether a loss was summed, but nothing was computed with `items`. Then it should
            not have been passed.
    """

    def __init__(self, samples: int, strict: bool = True, labels: Tensor | None = None):
        super().__init__()
        self.samples, self.strict = samples, strict
        self.labels = None if labels is None else labels.clamp_min(1)
        self.items = None if labels is None else self.labels.sum()
        # The samples' losses (k,) of each loss function called, without and with their weights.
        self._seen: list[tuple[Tensor, Tensor]] = []
        self._summed = self._divided = False

    @property
    def undivided(self) -> bool:
        return self._summed and not self._divided

    def __torch_function__(
        self, func: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        arguments = (*args, *kwargs.values())
        if self.items is not None and any(value is self.items for value in arguments):
            self._divided = True
        if func not in LOSSES or _reduction(func, args, kwargs) == "none":
            return func(*args, **kwargs)
        try:
            losses = LOSSES[func](self.samples, *args, **kwargs)
        except NotBySample:
            if self.strict:
                raise
            return func(*args, **kwargs)
        factor, weights = 1, _WEIGHTS.get()
        if self.labels is not None and _reduction(func, args, kwargs) == "sum":
            # The caller will divide by `items`.
            self._summed, losses, factor = True, losses / self.labels, self.items
        weights = weights(losses.detach()) if callable(weights) else weights
        counted = losses if weights is None else losses * weights.to(losses.dtype)
        self._seen.append((losses.detach(), counted.detach()))
        return counted.mean() * factor

    def known_per_sample(self, loss: Tensor) -> Tensor | None:
        """The losses (k,) of the samples, without weights, whose (weighted) mean is the model's
        loss; None if the model's loss combines several losses."""
        if len(self._seen) == 1:
            ((losses, counted),) = self._seen
            if torch.isclose(counted.mean(), loss.to(losses.dtype), rtol=1e-4):
                return losses
        return None

    def per_sample(self, loss: Tensor) -> Tensor:
        """The losses (k,) of the samples; each sample gets the mean where they are not known."""
        losses = self.known_per_sample(loss)
        return loss.detach().repeat(self.samples) if losses is None else losses


def _reduction(func: Callable, args: tuple, kwargs: dict) -> str:
    """The `reduction` of a call of a loss function."""
    bound = inspect.signature(func).bind(*args, **kwargs)
    return bound.arguments.get("reduction", "mean")


def _by_sample(values: Tensor, k: int) -> Tensor:
    """The values of a loss, one line for each sample."""
    if values.numel() % k:
        raise NotBySample(
            f"a loss with {values.numel()} values does not divide over the {k} samples of the "
            "batch, so the loss of a single sample is unknown. The model must compute a loss whose "
            "values are laid out batch-first."
        )
    return values.reshape(k, -1)  # (k, values of a sample)


def _label_mean(losses: Tensor, target: Tensor, ignore_index: int, k: int) -> Tensor:
    """Each sample's mean (k,) over its own labels of their losses, with class weights applied."""
    counted = (target != ignore_index).to(losses.dtype)
    # A sample without labels has loss 0 rather than 0/0, which would make the batch's loss NaN.
    counts = _by_sample(counted, k).sum(1)
    return _by_sample(losses, k).sum(1) / torch.where(counts > 0, counts, 1)


def _cross_entropy(
    k: int,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    losses = F.cross_entropy(
        input,
        target,
        weight,
        ignore_index=ignore_index,
        reduction="none",
        label_smoothing=label_smoothing,
    )
    if reduction == "sum":
        return _by_sample(losses, k).sum(1)
    # Targets are class probabilities: every position counts.
    if target.is_floating_point():
        return _by_sample(losses, k).mean(1)
    return _label_mean(losses, target, ignore_index, k)


def _nll_loss(
    k: int,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    losses = F.nll_loss(input, target, weight, ignore_index=ignore_index, reduction="none")
    if reduction == "sum":
        return _by_sample(losses, k).sum(1)
    return _label_mean(losses, target, ignore_index, k)


def _ctc_loss(
    k: int,
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    losses = F.ctc_loss(
        log_probs, targets, input_lengths, target_lengths, blank, "none", zero_infinity
    )  # (k,)
    if reduction == "mean":
        losses = losses / torch.as_tensor(target_lengths, device=losses.device).clamp_min(1)
    return losses


def _elementwise(function: Callable) -> Callable:
    """Per-sample form of a loss with one value per element of its input (such as mse)."""

    def per_sample(
        k: int,
        input: Tensor,
        target: Tensor,
        *args: Any,
        reduction: str = "mean",
        size_average: bool | None = None,
        reduce: bool | None = None,
        **kwargs: Any,
    ) -> Tensor:
        losses = function(input, target, *args, reduction="none", **kwargs)
        rows = _by_sample(losses, k)
        return rows.sum(1) if reduction == "sum" else rows.mean(1)

    return per_sample


def _kl_div(
    k: int,
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Tensor:
    rows = _by_sample(F.kl_div(input, target, reduction="none", log_target=log_target), k)
    # Torch divides by the length of the leading axis. A sample may have several lines there.
    if reduction == "batchmean":
        return rows.sum(1) / (len(input) // k)
    return rows.sum(1) if reduction == "sum" else rows.mean(1)


# Loss functions, and their forms that return the losses of the k samples (k,).
LOSSES: dict[Callable, Callable] = {
    F.cross_entropy: _cross_entropy,
    F.nll_loss: _nll_loss,
    F.ctc_loss: _ctc_loss,
    F.kl_div: _kl_div,
    **{
        function: _elementwise(function)
        for function in (
            F.mse_loss,
            F.l1_loss,
            F.smooth_l1_loss,
            F.huber_loss,
            F.binary_cross_entropy,
            F.binary_cross_entropy_with_logits,
            F.soft_margin_loss,
            F.multilabel_soft_margin_loss,
            F.hinge_embedding_loss,
            F.poisson_nll_loss,
        )
    },
}
