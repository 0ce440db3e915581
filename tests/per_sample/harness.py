"""Compares what the engine shows of a model with one backward pass for each sample."""

from collections.abc import Callable, Collection
from types import SimpleNamespace

import torch
from torch import nn

from hf_unlearn.per_sample import ParameterRows, PerSampleEngine, SampleMeanLoss
from hf_unlearn.per_sample.check import find_slow_parameters
from hf_unlearn.per_sample.reference import count_samples, per_sample_gradients

K = 4


def loss_of(model: nn.Module, dtype: torch.dtype | None = None):
    """The mean over samples of a model's loss, under autocast to `dtype`."""

    def loss(batch: dict) -> torch.Tensor:
        samples = SampleMeanLoss(count_samples(batch))
        with samples, torch.autocast("cpu", dtype, enabled=dtype is not None):
            return model(**batch).loss

    return loss


def randomised(model: nn.Module) -> nn.Module:
    """Moves parameters away from zero biases and unit scales, which can hide wrong gradients."""
    with torch.no_grad():
        for p in model.parameters():
            if p.abs().max() < 3:
                p.add_(0.02 * torch.randn_like(p))
            else:
                p.copy_(torch.randn_like(p) * 0.05)
    return model.eval()


def wrong_values(
    rows: ParameterRows, expected: torch.Tensor, tolerance: float, floor: float
) -> dict[str, float]:
    """The relative errors of the rows, K and b of one parameter, where these are too large."""
    flat = expected.reshape(K, -1).double()
    got = torch.stack([rows.weighted(one) for one in torch.eye(K, dtype=expected.dtype)])
    compared = [("rows", got, expected)]
    for exact in (False, True):
        products, b = rows.products(torch.ones_like(rows.parameter), exact)
        compared += [("K", products, flat @ flat.T), ("b", b, flat.sum(1))]
    length = {
        "rows": flat.norm(),
        "K": flat.norm() ** 2,
        "b": flat.norm() * flat.shape[1] ** 0.5,
    }
    return {
        what: float((value - reference).norm() / length[what])
        for what, value, reference in compared
        if not (value - reference).norm() <= tolerance * length[what] + floor
    }


def differences(
    model: nn.Module,
    batch: dict,
    slow: Collection[str] = (),
    tolerance: float = 1e-3,
    dtype: torch.dtype | None = None,
) -> dict:
    """What differs, and by how much, between what a visitor sees and samples computed alone.

    Compared are the rows, K and b of every parameter. A parameter that the engine leaves to the
    slow path counts as different, unless it is in `slow`.
    """
    names = {
        p: name for name, p in model.named_parameters() if p.requires_grad and name not in slow
    }
    alone = [
        torch.stack(rows) / K
        for rows in zip(*per_sample_gradients(model, loss_of(model, dtype), batch, K, list(names)))
    ]
    alone = dict(zip(names, alone))
    floor = 1e-3 * tolerance * max([rows.norm() for rows in alone.values()], default=0)
    wrong, seen = {}, []

    def visit(rows: ParameterRows) -> None:
        seen.append(id(rows.parameter))
        errors = wrong_values(rows, alone[rows.parameter], tolerance, floor)
        wrong.update({(names[rows.parameter], what): error for what, error in errors.items()})

    engine = PerSampleEngine(model, [p for name, p in model.named_parameters() if name in slow])
    with engine.record(K, batch):
        loss = loss_of(model, dtype)(batch)
    for show in (
        lambda: engine.backward(loss.backward, visit, "replay"),
        lambda: engine.replay(visit),
    ):
        seen.clear()
        if loss.requires_grad:
            show()
        for p, name in names.items():
            if id(p) in engine.slow:
                wrong[name] = f"slow: {engine.slow[id(p)]}"
            elif id(p) not in seen and alone[p].norm() > floor:
                wrong[name] = "unseen"
            if seen.count(id(p)) > 1:
                wrong[name] = "shown twice"
    wrong.update({name: "has .grad" for name, p in model.named_parameters() if p.grad is not None})
    return wrong


class Use(nn.Module):
    """A model with the loss mse(tanh(function(x, *parameters, *modules)), 0.3)."""

    def __init__(self, function: Callable, *parameters: torch.Tensor, **modules: nn.Module):
        super().__init__()
        self.function = function
        self.parts = nn.ParameterList(parameters)
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        modules = [module for name, module in self.named_children() if name != "parts"]
        output = torch.tanh(self.function(x, *self.parts, *modules))
        return SimpleNamespace(loss=nn.functional.mse_loss(output, torch.full_like(output, 0.3)))


def numbers(*shape: int) -> torch.Tensor:
    """Inputs of K samples."""
    return torch.randn(K, *shape)


def layer(module: nn.Module) -> Use:
    """The use of a module by itself."""
    return Use(lambda x, module: module(x), module=module)


def assert_same_rows(use: nn.Module, x: torch.Tensor, slow: Collection[str] = ()) -> None:
    """In float64, rows are those of samples alone, except for parameters on the slow path.

    Args:
        slow: names of the parameters that must take the slow path.
    """
    use, x = randomised(use).double(), x.double() if x.is_floating_point() else x
    assert not differences(use, {"x": x}, slow, tolerance=1e-8)
    assert set(find_slow_parameters(use, loss_of(use), {"x": x}, K, torch.float64)) == set(slow)
