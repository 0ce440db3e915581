"""With `freeze_randomness=False`, every pass of a step draws the same numbers."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from hf_unlearn.trainer.batches.seeded import RETAIN, seeded
from tests.support.tiny import checkpointing
from tests.trainer.steps.random_models import (
    MODEL,
    K,
    N,
    alone,
    cosine,
    flat,
    setting,
    stacked,
    trained,
)


def in_batch(model, batch: dict, k: int) -> list[torch.Tensor]:
    """The gradients of a classifier's samples, computed within their batch."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    losses = nn.functional.cross_entropy(
        model(**batch)["logits"], batch["labels"], reduction="none"
    )
    return [
        flat(torch.autograd.grad(losses[n], parameters, retain_graph=True), parameters)
        for n in range(k)
    ]


@pytest.mark.parametrize("way", [{}, {**checkpointing(False), **MODEL}])
def test_with_randomness_every_pass_draws_the_same_numbers(tmp_path, warned, way):
    model, forget, retain, _ = setting("dropout")
    trainer, before, step = trained(
        model, tmp_path, forget, retain, stacked, freeze_randomness=False, **way
    )
    batch = trainer.training_run.step_runner.retain_batches.batch
    with seeded(trainer.args.seed, RETAIN, 0, 0):
        drawn = in_batch(before.train(), batch, K)
    assert cosine(step, drawn) < 1e-5
    assert cosine(step, in_batch(before.eval(), batch, K)) > 1e-3
    assert not trainer.training_run.checked_model.samples.engine_choice.one_by_one
    (message,) = warned
    assert "`residual` refers only to the network drawn for the retain batch" in message


class Noisy(nn.Module):
    """A classifier with dropout, or with noise that evaluation mode does not switch off.

    Args:
        slow: use the bias in a way that the engine has no rule for.
    """

    def __init__(self, slow: bool, dropout: float, noise: float):
        super().__init__()
        self.linear, self.dropout, self.head, self.bias = (
            nn.Linear(8, 8),
            nn.Dropout(dropout),
            nn.Linear(8, 3),
            nn.Parameter(torch.randn(8)),
        )
        self.slow, self.noise = slow, noise

    def forward(self, x, labels):
        x = self.dropout(self.linear(x + self.noise * torch.randn_like(x))).tanh()
        x = x + (torch.stack([self.bias, (x * 0).sum(0)]).sum(0) if self.slow else self.bias)
        logits = self.head(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


@pytest.mark.parametrize(("slow", "dropout", "noise"), [(True, 0.5, 0.0), (False, 0.0, 1.0)])
def test_a_sample_alone_draws_the_same_numbers_in_each_pass(tmp_path, warned, slow, dropout, noise):
    """If some samples must be computed alone, all are, because within a batch they would draw
    different numbers."""
    generator = torch.Generator().manual_seed(0)
    samples = [
        {"x": torch.randn(8, generator=generator), "labels": torch.tensor(i % 3)}
        for i in range(N + K)
    ]
    model = Noisy(slow, dropout, noise)
    options = {"freeze_randomness": not dropout, **MODEL, "learning_rate": 10.0}
    trainer, before, step = trained(model, tmp_path, samples[:N], samples[N:], stacked, **options)
    assert trainer.training_run.checked_model.samples.engine_choice.one_by_one
    assert any("random numbers even in evaluation mode" in one for one in warned) == bool(noise)
    rows, batch = [], trainer.training_run.step_runner.retain_batches.batch
    for n in range(K):
        with seeded(trainer.args.seed, RETAIN, 0, n):
            one = {name: values[n : n + 1] for name, values in batch.items()}
            rows += alone(before.train(), [one])
    assert cosine(step, rows) < 1e-5


def test_the_generator_of_any_kind_of_gpu_is_seeded_and_restored(monkeypatch):
    """As on Apple's MPS, whose module of torch has no `device` context."""
    generator = torch.Generator().manual_seed(1)
    mps = SimpleNamespace(
        manual_seed=generator.manual_seed,
        get_rng_state=lambda device: generator.get_state(),
        set_rng_state=lambda state, device: generator.set_state(state),
    )
    monkeypatch.setattr(torch, "get_device_module", lambda device: {"mps": mps}[device.type])
    before, drawn = generator.get_state(), []
    for _ in range(2):
        with seeded(3, RETAIN, device=torch.device("mps")):
            drawn.append(torch.randn(4, generator=generator))
        assert torch.equal(generator.get_state(), before)
    assert torch.equal(*drawn)
