"""Checks the engine against samples computed alone, and finds parameters for the slow path.

The trainer does this once, before the first step.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError

from .. import ops
from .comparison import (
    SCALES,
    WEIGHTS,
    BatchVsAlone,
    SamplesAlone,
    ShardedProcesses,
    allowed_errors,
    norm,
)
from .engine import PerSampleEngine
from .losses import weighted_samples
from .parameter_rows import ParameterRows
from .reference import sample_gradient
from .rules import Unsupported
from .shards import all_finite, averaged, own_parameters

MIXED = (
    "the loss of the batch is not the mean of what the model returns for each sample alone: "
    "something averages over the batch, its inputs or the values of its loss do not divide evenly "
    "over the samples, or the loss is not one of torch.nn.functional's"
)
OTHER_RECOMPUTATION = (
    "gradient checkpointing computes its layers differently while their gradients are recorded"
)


def find_slow_parameters(
    model: nn.Module,
    loss_of: Callable[[dict], Tensor],
    batch: dict,
    k: int,
    precision: torch.dtype = torch.float32,
    processes: ShardedProcesses | None = None,
) -> dict[str, str] | None:
    """Names of the parameters whose per-sample gradients the engine cannot compute, with reasons.

    Up to four samples of the batch are computed alone, without the engine. A weighted sum of their
    gradients is compared with the engine's result within the batch, and the engine's inner products
    are compared with that sum.

    Args:
        loss_of: the model's loss on a batch, a `SampleMeanLoss`, without randomness (no dropout).
        precision: dtype of the forward pass.
        processes: required if the model is sharded.

    Returns:
        None if the loss of the batch, or its gradient, is not finite.
    """
    own_parameters(model)
    names = {p: name for name, p in model.named_parameters() if p.requires_grad}
    comparison = BatchVsAlone(model, loss_of, batch, k, precision, processes)
    alone = comparison.alone(list(names))
    slow: dict[nn.Parameter, str] = {}
    while True:
        try:
            return _slow_parameters_beside(slow, comparison, alone, names)
        except Unsupported as problem:
            reasons = {p: str(problem) for p in problem.parameters if p not in slow}
            if not reasons:
                raise
            slow.update(reasons)
        except CheckpointError:
            return dict.fromkeys(names.values(), OTHER_RECOMPUTATION)


def _slow_parameters_beside(
    slow: dict[nn.Parameter, str],
    comparison: BatchVsAlone,
    alone: SamplesAlone,
    names: dict[nn.Parameter, str],
) -> dict[str, str] | None:
    """One pass of `find_slow_parameters`, and its result: the engine leaves out the parameters in
    `slow`.

    Raises:
        Unsupported: the engine cannot compute the gradients of further parameters.
    """
    count, k = len(alone.indices), comparison.k
    scales, weights = alone.losses.new_zeros(2, k)
    scales[alone.indices] = alone.losses.new_tensor(SCALES[:count])
    weights[alone.indices] = alone.losses.new_tensor(WEIGHTS[:count])
    mixed = dict.fromkeys(names.values(), MIXED)
    engine = PerSampleEngine(comparison.model, slow)
    with engine.record(k, comparison.batch), weighted_samples(scales):
        loss = comparison.loss_in_batch()
    if loss is None:
        return mixed
    if comparison.on_any_process(not bool(loss.isfinite())):
        return None
    if not comparison.is_mean(loss, scales[alone.indices], alone.losses):
        return mixed
    expected = dict(zip(names, alone.gradients))
    loss = loss * comparison.loss_scale
    wrong = _wrong_parameters(comparison, engine, loss, weights * k, expected)
    if comparison.on_any_process(bool(wrong)):
        # The difference may not be the engine's fault.
        if not _gradient_is_finite(comparison, list(names)):
            return None
        if _differs_without_engine(comparison, alone, scales * weights, list(names)):
            return mixed
    given_up = {p: engine.slow[id(p)] for p in names if id(p) in engine.slow and p not in slow}
    return {names[p]: reason for p, reason in (slow | given_up | wrong).items()}


def _gradient_is_finite(comparison: BatchVsAlone, parameters: list[nn.Parameter]) -> bool:
    """Whether the gradient of the batch's loss is finite on all processes."""
    plain = sample_gradient(comparison.model, comparison.loss_of(comparison.batch), parameters)
    return not comparison.on_any_process(not all_finite(plain))


def _differs_without_engine(
    comparison: BatchVsAlone,
    alone: SamplesAlone,
    weights: Tensor,
    parameters: list[nn.Parameter],
) -> bool:
    """Whether the gradient of the weighted batch, by plain autograd, differs from samples alone."""
    with weighted_samples(weights):
        loss = comparison.loss_of(comparison.batch) * (comparison.k * comparison.loss_scale)
        plain = sample_gradient(comparison.model, loss, parameters)
    return comparison.on_any_process(comparison.gradients_differ(plain, alone.gradients))


def samples_mix(
    model: nn.Module,
    loss_of: Callable[[dict], Tensor],
    batch: dict,
    k: int,
    precision: torch.dtype,
    processes: ShardedProcesses | None = None,
) -> bool:
    """Whether the loss of a batch, or its gradient, is not the mean over its samples' own.

    Then only samples computed one by one have the gradients that they have alone. The gradient may
    differ even if the loss does not: some kernels of torch have had faults in batches only.
    Arguments are as in `find_slow_parameters`.

    Raises:
        ValueError: the loss of a sample alone is always 0, because the loss compares samples.
    """
    parameters = [p for p in own_parameters(model) if p.requires_grad]
    comparison = BatchVsAlone(model, loss_of, batch, k, precision, processes)
    alone = comparison.alone(parameters, (1.0,) * len(WEIGHTS))
    scales = alone.losses.new_zeros(k)
    scales[alone.indices] = alone.losses.new_tensor(SCALES[: len(alone.indices)])
    with weighted_samples(scales):
        loss = comparison.loss_in_batch()
    if loss is None:
        return True
    if not comparison.is_mean(loss, scales[alone.indices], alone.losses):
        if comparison.on_any_process(not bool(alone.losses.any())):
            raise ValueError(
                "the loss of each sample alone is 0, while that of the batch is not: it compares "
                "samples with each other (as CLIP's does), so no sample has a gradient of its own "
                "to forget or to keep. Use a model whose loss is defined for a single sample"
            )
        return True
    in_batch = sample_gradient(model, loss * (k * comparison.loss_scale), parameters)
    return comparison.gradients_differ(in_batch, alone.gradients)


def _wrong_parameters(
    comparison: BatchVsAlone,
    engine: PerSampleEngine,
    loss: Tensor,
    weights: Tensor,
    alone: dict[nn.Parameter, Tensor],
) -> dict[nn.Parameter, str]:
    """Parameters for which the engine's result differs from samples alone, with the difference.

    Args:
        loss: of the batch, recorded by the engine.
        weights: of the rows (k,).
        alone: the weighted sum of the gradients of samples alone.
    """
    precision, processes = comparison.precision, comparison.processes
    lengths = torch.stack([norm(grad) for grad in alone.values()])
    bounds = dict(zip(alone, allowed_errors(lengths, precision)))
    wrong, seen = {}, set()
    all_weights = processes.weights(weights) if processes else weights

    def compare(rows: ParameterRows) -> None:
        seen.add(rows.parameter)
        expected, gradient = alone[rows.parameter], rows.weighted(weights)
        gradient = averaged(gradient, rows.parameter) if processes else gradient
        error, bound = norm(gradient - expected), bounds[rows.parameter]
        all_rows = processes.rows(rows) if processes else rows
        if not error <= bound:
            wrong[rows.parameter] = (
                f"it differs by {float(error / norm(expected)):.1e} from one sample at a time"
            )
        elif not _consistent(all_rows, expected, all_weights, bound, torch.finfo(precision).eps):
            wrong[rows.parameter] = "the inner products of its gradients do not match them"

    # Uses that the engine does not see add to .grad.
    before = {p: p.grad for p in alone}
    own_parameters(engine.model)
    engine.model.zero_grad(set_to_none=True)
    try:
        if loss.requires_grad:
            on_given_up = processes.announce_given_up if processes else None
            engine.backward(loss.backward, compare, on_given_up=on_given_up)
    finally:
        for p, grad in before.items():
            p.grad = grad
    for parameter, expected in alone.items():
        unseen = parameter not in seen and id(parameter) not in engine.slow
        if unseen and norm(expected) > bounds[parameter]:
            wrong[parameter] = "its use in the model was not seen"
    return wrong


def _consistent(
    rows: ParameterRows, expected: Tensor, weights: Tensor, bound: Tensor, eps: float
) -> bool:
    """Whether K w = b and w b = |u|^2, for u = A^T w and b = A u.

    Args:
        expected: u, with an error of at most `bound`.
        weights: w (k,).
        eps: rounding of the precision that rows were computed in.
    """
    K, b = rows.products(expected)
    w, length, bound = (
        ops.to_float64(weights),
        ops.to_float64(norm(expected)),
        ops.to_float64(bound),
    )
    size = K.trace().clamp_min(0).sqrt()
    bound = 2 * (bound + max(eps, 1e-6) * size * w.norm())
    underflow = torch.finfo(torch.float32).tiny
    return bool(
        (K @ w - b).norm() <= bound * size + underflow
        and (w @ b - length**2).abs() <= bound * length + underflow
    )
