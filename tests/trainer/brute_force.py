"""The step of a tiny Whisper, and the same step from the gradients of single samples."""

import copy

import torch

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


def brute_force(model, alpha, granularity, forget=FORGET, retain=RETAIN) -> torch.Tensor:
    """The same gradient from one backward pass per sample in float64 and the dense matrix A."""
    model = copy.deepcopy(model).double().train()
    parameters = [p for p in model.parameters() if p.requires_grad]

    def gradient(sample):
        batch = collate([{**sample, "input_features": sample["input_features"].double()}])
        return sample_gradient(model, model(**batch).loss, parameters)

    u = [torch.stack(grads).mean(0).flatten() for grads in zip(*map(gradient, forget))]
    rows = [torch.stack(grads).flatten(1) for grads in zip(*map(gradient, retain))]
    if granularity == "model":
        return orthograd_gradient(torch.cat(u), torch.cat(rows, 1), alpha)
    return torch.cat([orthograd_gradient(*pair, alpha) for pair in zip(u, rows)])


def relative(a, b) -> float:
    return float((a - b).norm() / b.norm())
