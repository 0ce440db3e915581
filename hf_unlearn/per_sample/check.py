"""Holds the engine against one sample computed alone before the first step, and finds what needs the slow path."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .engine import ParameterRows, PerSampleEngine
from .reference import sample_gradient, select_sample
from .rules import Unsupported

# Largest relative difference between a sample's gradient in the batch and alone, by the precision it is computed in;
# and, for gradients that are zero but for rounding (keys' biases), the same relative to the whole gradient.
TOLERANCE = {
    torch.float64: (1e-6, 1e-12),
    torch.float32: (1e-3, 1e-6),
    torch.bfloat16: (1e-1, 1e-3),
    torch.float16: (3e-2, 1e-3),
}


def find_slow_parameters(
    model: nn.Module, loss_of: Callable[[dict], Tensor], batch: dict, k: int, precision: torch.dtype = torch.float32
) -> dict[str, str]:
    """Names of the parameters whose per-sample gradients the engine cannot get, with the reason.

    One sample of the batch is computed alone, without the engine, and its gradient compared with what the engine gives
    for that sample within the batch. `loss_of` must be deterministic (no dropout).
    """
    names = {p: name for name, p in model.named_parameters() if p.requires_grad}
    slow: dict[nn.Parameter, str] = {}
    alone = dict(zip(names, sample_gradient(model, loss_of(select_sample(batch, k - 1, k)), list(names))))
    while True:
        engine = PerSampleEngine(model, slow)
        try:
            wrong = _differing(engine, loss_of, batch, k, alone, TOLERANCE[precision])
        except Unsupported as problem:
            found = {p: str(problem) for p in problem.parameters if p not in slow}
            if not found:
                raise
            slow.update(found)
            continue
        slow.update(wrong)
        return {names[p]: reason for p, reason in slow.items()}


def _differing(engine, loss_of, batch, k, alone, tolerance) -> dict[nn.Parameter, str]:
    relative, absolute = tolerance
    floor = absolute * torch.stack([grad.norm() for grad in alone.values()]).norm()
    last = torch.zeros(k, device=floor.device)
    last[-1] = k  # the rows are gradients of L_n / k
    wrong, met = {}, set()

    def compare(rows: ParameterRows) -> None:
        met.add(rows.parameter)
        expected = alone[rows.parameter]
        error = (rows.weighted(last) - expected).norm()
        if not error <= relative * expected.norm() + floor:
            wrong[rows.parameter] = f"its gradient of one sample alone differs by {float(error / expected.norm()):.1e}"

    with engine.record(k):
        loss = loss_of(batch)
    engine.backward(loss.backward, compare)
    for parameter, expected in alone.items():
        if parameter not in met and id(parameter) not in engine.slow and expected.norm() > floor:
            wrong[parameter] = "its use in the model was not seen"
    return wrong
