"""Turns a model's own batch loss into the mean over its samples of the loss that each sample has
alone.

Models average over the tokens of a batch, so that a sample's share of the loss depends on the
lengths of its neighbours and on padding. Here the loss of a batch is the mean over its samples of
what the model returns for each sample alone (DESIGN: "padding and batch composition change
nothing"). Nothing of the model is touched: its calls of `torch.nn.functional`'s loss functions are
intercepted while it computes.

Two arguments of losses mean something between samples only, and would cancel in a sample alone:

- *class weights* (`cross_entropy` and `nll_loss` with `weight=`): torch divides the weighted sum by
  the sum of the weights, so that a sample with one label would have the same loss whatever its
  class weighs. Here a sample's loss is the mean of its labels' weighted losses, sum_t w[y_t] l_t /
  T for its T labels, as torch has it for `binary_cross_entropy`. So a class of twice the weight
  pulls twice as hard.
- *num_items_in_batch*, the number of labels in a batch that Trainer gives to loss functions which
  sum and then divide: here each sample's sum is divided by the number of its own labels
  (`SampleMeanLoss`, labels).
"""

import contextlib
import inspect
from collections.abc import Callable
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class NotBySample(ValueError):
    """The values of a loss do not divide over the samples of the batch."""


_WEIGHTS: ContextVar[Tensor | None] = ContextVar("weights of the samples' losses", default=None)


@contextlib.contextmanager
def weighted_samples(weights: Tensor):
    """Within this context, `SampleMeanLoss` gives mean_n(w_n L_n); weights (k,)."""
    token = _WEIGHTS.set(weights)
    try:
        yield
    finally:
        _WEIGHTS.reset(token)


class SampleMeanLoss(TorchFunctionMode):
    """Within this context, every loss function that reduces over the batch returns the mean over
    samples.

    Args:
        samples: number of samples k in the batch. Losses are laid out batch-first, as everywhere in
            transformers: the leading axis is k, or k with other axes folded into it.
        strict: raise `NotBySample` where the values of a loss do not divide over the samples (such
            as of positions that a mask has picked); else such a loss stays the mean over the batch
            that it is.
        labels: the number of labels that each sample has (k,), for losses that are summed and
            divided by `items`.

    Attributes:
        items: the number of labels in the batch, a 0-d tensor, to be given as `num_items_in_batch`;
            None without labels.
        undivided: whether a loss was summed, but nothing was computed with `items`: then it should
            not have been given.
    """

    def __init__(self, samples: int, strict: bool = True, labels: Tensor | None = None):
        super().__init__()
        self.samples, self.strict = samples, strict
        self.labels = None if labels is None else labels.clamp_min(1)
        self.items = None if labels is None else self.labels.sum()
        self.seen: list[Tensor] = []
        self._summed = self._divided = False

    @property
    def undivided(self) -> bool:
        return self._summed and not self._divided

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self.items is not None and any(
            value is self.items for value in (*args, *kwargs.values())
        ):
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
            # which it will be divided by
            self._summed, losses, factor = True, losses / self.labels, self.items
        self.seen.append(losses.detach())
        return (losses if weights is None else losses * weights.to(losses.dtype)).mean() * factor

    def per_sample(self, loss: Tensor) -> Tensor:
        """The samples' losses (k,) that a model's loss is the mean of; its mean for each where the
        model has several."""
        if len(self.seen) == 1 and torch.isclose(
            self.seen[0].mean(), loss.to(self.seen[0].dtype), rtol=1e-4
        ):
            return self.seen[0]
        return loss.detach().repeat(self.samples)


def _reduction(func, args, kwargs) -> str:
    bound = inspect.signature(func).bind(*args, **kwargs)
    return bound.arguments.get("reduction", "mean")


def _by_sample(values: Tensor, k: int) -> Tensor:
    if values.numel() % k:
        raise NotBySample(
            f"a loss with {values.numel()} values does not divide over the {k} samples of the "
            "batch: the loss of one "
            "sample cannot be told from it. Let the model return a loss whose values are laid out "
            "batch-first."
        )
    return values.reshape(k, -1)


def _label_mean(losses: Tensor, target: Tensor, ignore_index: int, k: int) -> Tensor:
    """Each sample's mean over its own labels of their losses, which have the class weights in
    them."""
    counted = (target != ignore_index).to(losses.dtype)
    # A sample without a single label has no loss: it weighs nothing instead of spoiling the batch
    # with 0/0.
    counts = _by_sample(counted, k).sum(1)
    return _by_sample(losses, k).sum(1) / torch.where(counts > 0, counts, 1)


def _cross_entropy(
    k,
    input,
    target,
    weight=None,
    size_average=None,
    ignore_index=-100,
    reduce=None,
    reduction="mean",
    label_smoothing=0.0,
):
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
    if target.is_floating_point():  # class probabilities: every position counts
        return _by_sample(losses, k).mean(1)
    return _label_mean(losses, target, ignore_index, k)


def _nll_loss(
    k,
    input,
    target,
    weight=None,
    size_average=None,
    ignore_index=-100,
    reduce=None,
    reduction="mean",
):
    losses = F.nll_loss(input, target, weight, ignore_index=ignore_index, reduction="none")
    if reduction == "sum":
        return _by_sample(losses, k).sum(1)
    return _label_mean(losses, target, ignore_index, k)


def _ctc_loss(
    k,
    log_probs,
    targets,
    input_lengths,
    target_lengths,
    blank=0,
    reduction="mean",
    zero_infinity=False,
):
    # (k,)
    losses = F.ctc_loss(
        log_probs, targets, input_lengths, target_lengths, blank, "none", zero_infinity
    )
    if reduction == "mean":
        losses = losses / torch.as_tensor(target_lengths, device=losses.device).clamp_min(1)
    return losses


def _elementwise(function: Callable) -> Callable:
    """Per-sample form of a loss that has one value per element of its input (mse, l1, binary
    cross-entropy, ...)."""

    def per_sample(
        k, input, target, *args, reduction="mean", size_average=None, reduce=None, **kwargs
    ):
        losses = function(input, target, *args, reduction="none", **kwargs)
        rows = _by_sample(losses, k)
        return rows.sum(1) if reduction == "sum" else rows.mean(1)

    return per_sample


def _kl_div(k, input, target, size_average=None, reduce=None, reduction="mean", log_target=False):
    rows = _by_sample(F.kl_div(input, target, reduction="none", log_target=log_target), k)
    # over the leading axis, of which one sample may have several lines
    if reduction == "batchmean":
        return rows.sum(1) / (len(input) // k)
    return rows.sum(1) if reduction == "sum" else rows.mean(1)


# Each gives the losses of the k samples, (k,).
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
