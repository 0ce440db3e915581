"""Per-sample gradients one sample at a time: slow and obvious. The last resort of the engine and the oracle of its
tests.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from .shards import own_parameters


def select_sample(batch: dict, n: int, k: int) -> dict:
    """Sample n of a collated batch of k samples, as a batch of one."""
    return {
        name: value[n : n + 1] if isinstance(value, Tensor) and value.ndim and len(value) == k else value
        for name, value in batch.items()
    }


def per_sample_gradients(
    model: nn.Module, loss_of: Callable[[dict], Tensor], batch: dict, k: int, parameters: Sequence[nn.Parameter]
) -> Iterator[list[Tensor]]:
    """Yields g_n, a tensor for each of some parameters of a model, for each of the k samples: one forward and one
    backward pass each.

    Args:
        loss_of: the model's loss on a batch; here it only sees batches of one sample.
    """
    for n in range(k):
        yield sample_gradient(model, loss_of(select_sample(batch, n, k)), parameters)


def sample_gradient(model: nn.Module, loss: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """The gradient of a loss; `.grad` is left as it was. (Re-entrant checkpoints refuse `torch.autograd.grad`.)

    Of a model in shards (FSDP2) it is the mean over processes of their losses' gradients, in shards.
    """
    before = {p: p.grad for p in own_parameters(model)}
    model.zero_grad(set_to_none=True)
    try:
        loss.backward()
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    finally:
        for p, grad in before.items():
            p.grad = grad


def orthograd_gradient(u: Tensor, rows: Tensor, alpha: float) -> Tensor:
    """g = alpha mean_n(g_n) - (1 - alpha) u_perp for dense rows (k, d), by the singular vectors of A in float64.

    Slow and independent of `ops.projection`: u_perp is u less its part in the span of A's right singular vectors.
    """
    u, rows = u.double(), rows.double()
    unit = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-300)
    _, values, directions = torch.linalg.svd(unit, full_matrices=False)
    span = directions[values > 1e-6]
    return alpha * rows.mean(0) - (1 - alpha) * (u - span.T @ (span @ u))
