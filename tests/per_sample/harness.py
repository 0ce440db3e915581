"""One comparison for all: what the engine shows of a model against one backward pass for each
sample."""

from types import SimpleNamespace

import torch
from torch import nn

from hf_unlearn.per_sample import PerSampleEngine, SampleMeanLoss
from hf_unlearn.per_sample.reference import count_samples, per_sample_gradients

K = 4


def loss_of(model, dtype: torch.dtype | None = None):
    """The mean over samples of a model's loss, under autocast to `dtype`."""

    def loss(batch):
        samples = SampleMeanLoss(count_samples(batch))
        with samples, torch.autocast("cpu", dtype, enabled=dtype is not None):
            return model(**batch).loss

    return loss


def randomised(model: nn.Module) -> nn.Module:
    """Away from zero biases and unit scales, at which wrong gradients can look right."""
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.05) if not p.abs().max() < 3 else p.add_(
                0.02 * torch.randn_like(p)
            )
    return model.eval()


def differences(
    model, batch, slow=(), tolerance: float = 1e-3, dtype: torch.dtype | None = None
) -> dict:
    """Every row, Gram matrix and inner product that a visitor sees, against samples computed alone:
    what differs, and by how much. A parameter that the engine leaves to the slow path differs,
    unless it is in `slow`.
    """
    names = {
        p: name for name, p in model.named_parameters() if p.requires_grad and name not in slow
    }
    alone = [
        torch.stack(rows) / K
        for rows in zip(*per_sample_gradients(model, loss_of(model, dtype), batch, K, list(names)))
    ]
    alone = dict(zip(names, alone))
    floor, wrong, met = (
        1e-3 * tolerance * max([rows.norm() for rows in alone.values()], default=0),
        {},
        [],
    )

    def visit(rows):
        expected = alone[rows.parameter]
        met.append(id(rows.parameter))
        got = torch.stack([rows.weighted(one) for one in torch.eye(K, dtype=expected.dtype)])
        flat = expected.reshape(K, -1).double()
        compared = [("rows", got, expected)]
        for exact in (False, True):
            gram, dots = rows.products(torch.ones_like(rows.parameter), exact)
            compared += [("K", gram, flat @ flat.T), ("b", dots, flat.sum(1))]
        length = {
            "rows": flat.norm(),
            "K": flat.norm() ** 2,
            "b": flat.norm() * flat.shape[1] ** 0.5,
        }
        for what, value, reference in compared:
            if not (value - reference).norm() <= tolerance * length[what] + floor:
                wrong[names[rows.parameter], what] = float(
                    (value - reference).norm() / length[what]
                )

    engine = PerSampleEngine(model, [p for name, p in model.named_parameters() if name in slow])
    with engine.record(K, batch):
        loss = loss_of(model, dtype)(batch)
    for show in (
        lambda: engine.backward(loss.backward, visit, "replay"),
        lambda: engine.replay(visit),
    ):
        met.clear()
        if loss.requires_grad:
            show()
        for p, name in names.items():
            if id(p) in engine.slow:
                wrong[name] = f"slow: {engine.slow[id(p)]}"
            elif id(p) not in met and alone[p].norm() > floor:
                wrong[name] = "unseen"
            if met.count(id(p)) > 1:
                wrong[name] = "shown twice"
    wrong.update({name: "has .grad" for name, p in model.named_parameters() if p.grad is not None})
    return wrong


class Use(nn.Module):
    """Any use of some parameters: the loss is the mean square of `function(x, *parameters)` for
    each sample."""

    def __init__(self, function, *parameters: torch.Tensor, **modules: nn.Module):
        super().__init__()
        self.function = function
        self.parts = nn.ParameterList(parameters)
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        output = torch.tanh(self.function(x, *self.parts, *self.children_but_parts()))
        return SimpleNamespace(loss=nn.functional.mse_loss(output, torch.full_like(output, 0.3)))

    def children_but_parts(self):
        return [module for name, module in self.named_children() if name != "parts"]
