"""The step of a tiny Whisper, and the same step from the gradients of single samples."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from hf_unlearn.per_sample.reference import orthograd_gradient, sample_gradient
from tests.support.tiny import FORGET, RETAIN, collate, make_trainer


def step(model, tmp_path, **options) -> torch.Tensor:
    """The gradient of one step, as SGD(lr=1) has subtracted it from the weights."""
    changed = copy.deepcopy(model)
    make_trainer(changed, tmp_path, **options).train()
    pairs = zip(model.parameters(), changed.parameters())
    return torch.cat(
        [(before - after).flatten() for before, after in pairs if before.requires_grad]
    ).double()


def in_float64(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: x.double() if x.is_floating_point() else x for name, x in batch.items()}


def step_of_samples(
    model: nn.Module,
    loss_of: Callable[[nn.Module, Any], torch.Tensor],
    forget: Iterable,
    retain: Iterable,
    alpha: float,
    granularity: str = "parameter",
) -> torch.Tensor:
    """The same gradient from one backward pass per sample and the dense matrix A.

    Args:
        model: in float64.
        loss_of: the loss of (model, sample).
    """
    parameters = [p for p in model.parameters() if p.requires_grad]

    def gradients(samples: Iterable) -> list[torch.Tensor]:
        rows = [sample_gradient(model, loss_of(model, sample), parameters) for sample in samples]
        return [torch.stack(grads).flatten(1) for grads in zip(*rows)]

    u, rows = [part.mean(0) for part in gradients(forget)], gradients(retain)
    if granularity == "model":
        return orthograd_gradient(torch.cat(u), torch.cat(rows, 1), alpha)
    return torch.cat([orthograd_gradient(*pair, alpha) for pair in zip(u, rows)])


def brute_force(model, alpha, granularity, forget=FORGET, retain=RETAIN) -> torch.Tensor:
    """The step of a tiny Whisper's own loss by `step_of_samples`."""
    exact = copy.deepcopy(model).double().train()

    def loss_of(model: nn.Module, sample: dict) -> torch.Tensor:
        return model(**in_float64(collate([sample]))).loss

    return step_of_samples(exact, loss_of, forget, retain, alpha, granularity)


def relative(a, b) -> float:
    return float((a - b).norm() / b.norm())
