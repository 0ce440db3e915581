"""Holds the engine against samples computed alone before the first step, and finds what needs the
slow path."""

from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from .. import ops
from .engine import ParameterRows, PerSampleEngine
from .losses import NotBySample, weighted_samples
from .reference import sample_gradient, select_sample
from .rules import Unsupported
from .shards import averaged, local, own_parameters, squared_norm

# Largest relative difference between gradients in the batch and alone, by the precision they are
# computed in; the same for gradients that are zero but for rounding (keys' biases), relative to the
# whole gradient; and the same for losses.
TOLERANCE = {
    torch.float64: (1e-6, 1e-12, 1e-8),
    torch.float32: (1e-3, 1e-6, 1e-4),
    torch.bfloat16: (1e-1, 1e-3, 2e-2),
    torch.float16: (3e-2, 1e-3, 4e-3),
}
# So many samples are computed alone, and weighed in two ways: SCALES on their losses in the batch,
# so that samples that are alike differ, and WEIGHTS on their gradients afterwards. Neither
# exchanging samples, nor averaging over them, nor leaving some out gives the same sum, even for
# identical samples, and even if one of them is the only one; nor does giving a part of one sample
# to another, since no two weights are the same.
SCALES = (0.5, 1.0, 2.0, 3.0)
WEIGHTS = (1.0, -1.3, 0.7, -0.6)
MIXED = (
    "the loss of the batch is not the mean of what the model returns for each sample alone: "
    "something averages over the "
    "batch, its inputs or the values of its loss do not come in equal shares, or it is none of "
    "torch.nn.functional's"
)

CONTRAST = (
    "The loss of each sample alone is 0, while that of the batch is not: it compares samples with "
    "each other (as CLIP's "
    "does), so no sample has a gradient of its own to forget or to keep. Give a model whose loss a "
    "single sample has."
)


class Together(Protocol):
    """What processes tell each other where a model is in shards (FSDP2), which they can only
    compute with together: all take as many passes, and compare the mean over processes (implemented
    in `distributed.py`)."""

    def any(self, flag: bool) -> bool:
        """Whether a flag is set on any process."""

    def rows(self, rows: ParameterRows) -> ParameterRows:
        """The rows of all processes."""

    def missed(self, parameter: nn.Parameter) -> None:
        """Tells the others that this process has given a parameter up."""

    def weights(self, weights: Tensor) -> Tensor:
        """The weights of all processes' rows for the mean over processes of their weighted sums."""


def find_slow_parameters(
    model: nn.Module,
    loss_of: Callable[[dict], Tensor],
    batch: dict,
    k: int,
    precision: torch.dtype = torch.float32,
    together: Together | None = None,
) -> dict[str, str] | None:
    """Names of the parameters whose per-sample gradients the engine cannot get, with the reason;
    None where the loss of the batch, or its gradient, is not finite.

    Up to four samples of the batch are computed alone, without the engine; a weighted sum of their
    gradients is compared with what the engine gives within the batch, and the engine's inner
    products with that sum.

    Args:
        loss_of: the model's loss on a batch, a `SampleMeanLoss`, without randomness (no dropout).
        precision: that the forward pass computes in.
        together: given where the model is in shards.
    """
    own_parameters(model)
    names = {p: name for name, p in model.named_parameters() if p.requires_grad}
    places, losses, alone = _alone(model, loss_of, batch, k, list(names), precision, together)
    scales, weights = losses.new_zeros(2, k)
    scales[places], weights[places] = (
        losses.new_tensor(SCALES[: len(places)]),
        losses.new_tensor(WEIGHTS[: len(places)]),
    )
    slow: dict[nn.Parameter, str] = {}
    while True:
        engine = PerSampleEngine(model, slow)
        try:
            with engine.record(k, batch), weighted_samples(scales):
                loss = _in_batch(loss_of, batch, together)
            if loss is None:
                return dict.fromkeys(names.values(), MIXED)
            if _anywhere(not bool(loss.isfinite()), together):
                return None
            if not _is_mean(loss, scales[places], losses, k, precision, together):
                return dict.fromkeys(names.values(), MIXED)
            expected = dict(zip(names, alone))
            wrong = _differing(
                engine, loss * _lift(precision), weights * k, expected, precision, together
            )
        except Unsupported as problem:
            found = {p: str(problem) for p in problem.parameters if p not in slow}
            if not found:
                raise
            slow.update(found)
            continue
        if _anywhere(bool(wrong), together):
            plain = sample_gradient(model, loss_of(batch), list(names))
            if _anywhere(not _finite(plain), together):
                return None  # no fault of the engine
            with weighted_samples(scales * weights):
                plain = sample_gradient(model, loss_of(batch) * (k * _lift(precision)), list(names))
            if _anywhere(_differ(plain, alone, precision), together):  # nor is this
                return dict.fromkeys(names.values(), MIXED)
        slow.update(
            (p, engine.slow[id(p)]) for p in names if id(p) in engine.slow and p not in slow
        )
        slow.update(wrong)
        return {names[p]: reason for p, reason in slow.items()}


def samples_mix(
    model: nn.Module,
    loss_of: Callable[[dict], Tensor],
    batch: dict,
    k: int,
    precision: torch.dtype,
    together: Together | None = None,
) -> bool:
    """Whether the loss of a batch, or its gradient, is something else than the mean of its samples'
    own, so that only samples computed one by one have the gradients that they have alone.
    (Arguments as in `find_slow_parameters`.)

    The gradient may differ where the loss does not: kernels of torch have had faults in batches
    alone.

    Raises:
        ValueError: a sample alone has no loss at all, since the loss is a contrast between samples.
    """
    parameters = [p for p in own_parameters(model) if p.requires_grad]
    places, losses, alone = _alone(
        model, loss_of, batch, k, parameters, precision, together, (1.0,) * len(WEIGHTS)
    )
    scales = losses.new_zeros(k)
    scales[places] = losses.new_tensor(SCALES[: len(places)])
    with weighted_samples(scales):
        loss = _in_batch(loss_of, batch, together)
    if loss is None:
        return True
    if not _is_mean(loss, scales[places], losses, k, precision, together):
        if _anywhere(not bool(losses.any()), together):
            raise ValueError(CONTRAST)
        return True
    in_batch = sample_gradient(model, loss * (k * _lift(precision)), parameters)
    return _differ(in_batch, alone, precision)


def _differ(in_batch: list[Tensor], alone: list[Tensor], precision: torch.dtype) -> bool:
    """Whether the gradients of samples in a batch, without the engine, are others than those of
    samples alone."""
    length = torch.stack([_norm(grad) for grad in alone]).norm()
    error = torch.stack([_norm(a - b) for a, b in zip(in_batch, alone)]).norm()
    return bool(error > TOLERANCE[precision][0] * length)


def _places(k: int) -> list[int]:
    """The last sample, the first, and others between them."""
    return list(dict.fromkeys((k - 1, 0, k // 2, k // 3)))


def _lift(precision: torch.dtype) -> float:
    """Factor on losses whose gradients would vanish in float16, as a gradient scaler has it."""
    return 256.0 if precision == torch.float16 else 1.0


def _norm(gradient: Tensor) -> Tensor:
    return (
        squared_norm(gradient).sqrt().float() if isinstance(gradient, DTensor) else gradient.norm()
    )


def _alone(
    model, loss_of, batch, k, parameters, precision, together, weights=WEIGHTS
) -> tuple[list[int], Tensor, list[Tensor]]:
    """Which samples were computed alone, their losses, and the weighted sum of their gradients."""
    places, losses, total = [], [], None
    candidates = list(dict.fromkeys((*_places(k), *range(min(k, 8)))))
    # as many passes on all processes: some may look at a sample once more, which does not count
    if together:
        candidates = [*_places(k), *[0] * len(SCALES)][: len(SCALES)]
    for n in candidates:
        loss = loss_of(select_sample(batch, n, k))
        repeated = n in places
        # such a sample tells nothing
        if not together and (len(places) == len(SCALES) or (loss == 0 and n != k - 1)):
            continue
        factor = 0.0 if repeated else SCALES[len(places)] * weights[len(places)] * _lift(precision)
        gradients = sample_gradient(model, loss * factor, parameters)
        if total is None:
            total = gradients
        else:
            torch._foreach_add_(total, gradients)
        if not repeated:
            places.append(n)
            losses.append(loss.detach())
    return places, torch.stack(losses), total


def _in_batch(loss_of, batch, together) -> Tensor | None:
    """The loss of a batch; None where its values do not divide over the samples."""
    try:
        loss = loss_of(batch)
    except NotBySample:
        loss = None
    return None if _anywhere(loss is None, together) else loss


def _anywhere(flag: bool, together: Together | None) -> bool:
    return together.any(flag) if together else flag


def _finite(gradients: Iterable[Tensor]) -> bool:
    """Whether all values that this process has are finite."""
    return all(bool(local(gradient).isfinite().all()) for gradient in gradients)


def _is_mean(
    loss: Tensor, scales: Tensor, losses: Tensor, k: int, precision: torch.dtype, together
) -> bool:
    terms = scales * losses.to(scales.dtype) / k
    bound = TOLERANCE[precision][2] * terms.abs().sum()
    is_mean = bool((loss.detach() - terms.sum()).abs() <= bound) or not bool(
        torch.isfinite(terms).all()
    )
    return not _anywhere(not is_mean, together)


def _differing(engine, loss, weights, alone, precision, together) -> dict[nn.Parameter, str]:
    relative, absolute, _ = TOLERANCE[precision]
    floor = absolute * torch.stack([_norm(grad) for grad in alone.values()]).norm()
    wrong, met = {}, set()
    all_weights = together.weights(weights) if together else weights

    def compare(rows: ParameterRows) -> None:
        met.add(rows.parameter)
        expected, found = alone[rows.parameter], rows.weighted(weights)
        found = averaged(found, rows.parameter) if together else found
        error, bound = _norm(found - expected), relative * _norm(expected) + floor
        all_rows = together.rows(rows) if together else rows
        if not error <= bound:
            wrong[rows.parameter] = (
                f"its gradient of samples alone differs by {float(error / _norm(expected)):.1e}"
            )
        elif not _consistent(all_rows, expected, all_weights, bound, torch.finfo(precision).eps):
            wrong[rows.parameter] = "the inner products of its gradients do not fit them"

    before = {p: p.grad for p in alone}  # uses that are not seen add to it
    own_parameters(engine.model)
    engine.model.zero_grad(set_to_none=True)
    try:
        if loss.requires_grad:
            engine.backward(loss.backward, compare, missed=together.missed if together else None)
    finally:
        for p, grad in before.items():
            p.grad = grad
    for parameter, expected in alone.items():
        if parameter not in met and id(parameter) not in engine.slow and _norm(expected) > floor:
            wrong[parameter] = "its use in the model was not seen"
    return wrong


def _consistent(
    rows: ParameterRows, expected: Tensor, weights: Tensor, bound: Tensor, eps: float
) -> bool:
    """K w = A A^T w and w b = |A^T w|^2, for b = A u with u = A^T w but for an error of that
    size."""
    gram, dots = rows.products(expected)
    weights, length, bound = ops.doubled(weights), ops.doubled(_norm(expected)), ops.doubled(bound)
    size = gram.trace().clamp_min(0).sqrt()
    bound, lost = (
        2 * (bound + max(eps, 1e-6) * size * weights.norm()),
        torch.finfo(torch.float32).tiny,
    )
    return bool(
        (gram @ weights - dots).norm() <= bound * size + lost
        and (weights @ dots - length**2).abs() <= bound * length + lost
    )
