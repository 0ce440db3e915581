"""Helpers for the tests of several families of methods."""

import copy

import torch
from transformers import TrainerCallback

SHAPES = ((3, 4), (5,))


def double(data):
    return [
        {name: x.double() if x.is_floating_point() else x for name, x in sample.items()}
        for sample in data
    ]


def random_gradients(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES]


def flat(tensors) -> torch.Tensor:
    return torch.cat([t.flatten() for t in tensors])


def conflicting() -> tuple[list, list]:
    """u and r with <r, -u> < 0 in both tensors, at different angles."""
    u, r = random_gradients(1), random_gradients(2)
    return u, [y + x * (1 + (x * y).sum().abs() / (x * x).sum()) for x, y in zip(u, r)]


def agreeing() -> tuple[list, list]:
    """u and r with <r, -u> > 0 in both tensors."""
    u, r = conflicting()
    return u, [-y for y in r]


class Remember(TrainerCallback):
    """Records the weights after the method has prepared, and after the first step."""

    start = weights = None

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        Remember.start = copy.deepcopy(model.state_dict())

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == 1:
            Remember.weights = copy.deepcopy(model.state_dict())
