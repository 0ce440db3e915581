"""Methods that change the weights once, on a linear model with closed forms in float64."""

import pytest
import torch
from torch import nn

from hf_unlearn.methods import METHODS
from tests.support.tiny import make_trainer

D, CLASSES = 5, 3


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(CLASSES, D, dtype=torch.float64))

    def forward(self, x, labels):
        logits = x @ self.weight.T
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def samples(n: int) -> list[dict]:
    return [
        {"x": torch.randn(D, dtype=torch.float64), "labels": torch.tensor(i % CLASSES)}
        for i in range(n)
    ]


def collate(features):
    return {name: torch.stack([feature[name] for feature in features]) for name in ("x", "labels")}


def gradients(weight: torch.Tensor, data: list[dict]) -> torch.Tensor:
    """(n, classes * d): (softmax(W x) - one_hot(y)) x^T of each sample."""
    batch = collate(data)
    error = (
        torch.softmax(batch["x"] @ weight.T, 1)
        - torch.eye(CLASSES, dtype=torch.float64)[batch["labels"]]
    )
    return (error[:, :, None] * batch["x"][:, None, :]).flatten(1)


def change(tmp_path, method, forget, retain) -> tuple[torch.Tensor, torch.Tensor]:
    """The initial weight, and what the run has added to it."""
    model = Linear()
    before = model.weight.detach().clone()
    trainer = make_trainer(
        model,
        tmp_path,
        forget=forget,
        retain=retain,
        collator=collate,
        method=method,
        max_steps=9,
        per_device_train_batch_size=2,
        per_device_retain_batch_size=3,
    )
    assert trainer.train().global_step == 1 and trainer.state.log_history[0]["forget_loss"] > 0
    return before, model.weight.detach() - before


def test_influence_is_the_newton_step(tmp_path):
    forget, retain = samples(4), samples(7)
    before, got = change(tmp_path, METHODS["influence"](scale=3.0, tolerance=1e-10), forget, retain)
    g, f = gradients(before, retain), gradients(before, forget)
    hessian = torch.eye(CLASSES * D, dtype=torch.float64) + g.T @ g / len(g)
    expected = 3 * torch.linalg.solve(hessian, 4 / 11 * (f.mean(0) - g.mean(0)))
    torch.testing.assert_close(got.flatten(), expected, rtol=1e-8, atol=1e-10)


def test_stopping_rules_check_the_changed_model(tmp_path):
    forget = samples(4)
    trainer = make_trainer(
        Linear(),
        tmp_path,
        forget=forget,
        retain=samples(4),
        collator=collate,
        method="influence",
        method_kwargs={"scale": 5.0},
        stop_when="forget_loss >= 0.01",
        arguments={"eval_dataset": {"forget": forget}},
    )
    trainer.train()
    assert trainer.stopping["reason"] == "target reached" and trainer.stopping["step"] == 1


def test_a_stopping_rule_cannot_compare_with_a_model_that_is_not_checked(tmp_path):
    with pytest.raises(ValueError, match="method='influence' changes the model before the first"):
        make_trainer(
            Linear(),
            tmp_path,
            collator=collate,
            method="influence",
            forget=samples(4),
            retain=samples(4),
            stop_when="forget_loss >= original + 1",
            arguments={"eval_dataset": {"forget": samples(4)}},
        )


def test_influence_warns_where_it_has_not_converged(tmp_path, caplog):
    change(tmp_path, METHODS["influence"](iterations=1, tolerance=1e-10), samples(4), samples(7))
    assert "after 1 iterations the Newton step has a relative residual of" in caplog.text


def test_fisher_noise_has_the_documented_variance(tmp_path):
    retain = samples(7)
    method = METHODS["fisher"](noise=1e-4)
    before, first = change(tmp_path, method, samples(2), retain)
    information = gradients(before, retain).square().mean(0).view(CLASSES, D)
    variance = 1e-4 * (1 / (information + 1e-8)).clamp_max(1e3).mean(1, keepdim=True)
    torch.testing.assert_close(method.variance(information), variance)
    # 42 is the default seed.
    noise = torch.empty(CLASSES, D).normal_(generator=torch.Generator().manual_seed(42))
    torch.testing.assert_close(first, variance.sqrt() * noise.double())


@pytest.mark.parametrize("information", [0.0, 1e-3, 4.0])
def test_fisher_noise_of_vectors_is_bounded(information):
    variance = METHODS["fisher"](noise=2.0).variance(
        torch.full((3,), information, dtype=torch.float64)
    )
    assert float(variance[0]) == pytest.approx(20 * min(1e3, 1 / (information + 1e-8)))
