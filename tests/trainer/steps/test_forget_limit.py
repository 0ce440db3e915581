"""`max_forget_loss`: samples that are forgotten far enough do not count."""

import copy

import pytest
import torch
from torch import nn

from hf_unlearn.per_sample.reference import orthograd_gradient, sample_gradient
from tests.support.tiny import FORGET, RETAIN, collate, make_trainer, tiny_whisper
from tests.trainer.brute_force import relative, step


def losses_and_gradients(model: nn.Module, samples: list[dict]) -> tuple[list[float], torch.Tensor]:
    """Each sample's loss and gradient (k, values), alone and in float64."""
    model, losses, rows = copy.deepcopy(model).double(), [], []
    parameters = [p for p in model.parameters() if p.requires_grad]
    for sample in samples:
        sample = {**sample, "input_features": sample["input_features"].double()}
        loss = model(**collate([sample])).loss
        losses.append(float(loss.detach()))
        gradient = sample_gradient(model, loss, parameters)
        rows.append(torch.cat([part.flatten() for part in gradient]))
    return losses, torch.stack(rows)


def whisper() -> nn.Module:
    torch.manual_seed(0)
    return tiny_whisper()


@pytest.mark.parametrize("one_by_one", [False, True])
def test_only_samples_below_the_limit_are_forgotten(one_by_one, tmp_path, monkeypatch):
    model = whisper()
    losses, rows = losses_and_gradients(model, FORGET)
    limit = sorted(losses)[1] + 1e-3
    below = torch.tensor(losses) < limit
    assert 0 < int(below.sum()) < len(FORGET)
    if one_by_one:
        monkeypatch.setattr("hf_unlearn.trainer.samples.sample_access.samples_mix", lambda *_: True)
    found = step(model, tmp_path, max_forget_loss=limit, alpha=0.0, granularity="model")
    u = (rows * below[:, None]).sum(0) / len(FORGET)
    expected = orthograd_gradient(u, losses_and_gradients(model, RETAIN)[1], 0.0)
    assert relative(found, expected) < 1e-3


def test_the_logged_loss_is_that_of_all_samples_and_nothing_is_left_to_forget(tmp_path):
    model = whisper()
    losses, _ = losses_and_gradients(model, FORGET)
    batch = {"per_device_train_batch_size": len(FORGET), "logging_steps": 1, "max_steps": 1}
    trainer = make_trainer(model, tmp_path, max_forget_loss=min(losses) / 2, alpha=0.5, **batch)
    trainer.train()
    logged = next(entry for entry in trainer.state.log_history if "forget_loss" in entry)
    assert logged["forget_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    assert all(bool(p.isfinite().all()) for p in trainer.model.parameters())


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"method": "finetune"}, "does not ascend the forget loss: use .*orthograd"),
        ({"forget_objective": "silence"}, "raises no loss: leave one of them out"),
        ({"max_forget_loss": 0}, "max_forget_loss is 0, but must be a number above 0, or None"),
    ],
)
def test_where_a_limit_has_no_meaning_it_is_refused(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make_trainer(tiny_whisper(), tmp_path, **{"max_forget_loss": 1.0, **settings})
