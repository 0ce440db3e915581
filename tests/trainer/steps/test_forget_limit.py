"""`max_forget_loss`: samples that are forgotten far enough do not count."""

import copy

import pytest
import torch
from torch import nn

from hf_unlearn import UnlearnTrainer
from hf_unlearn.per_sample.reference import orthograd_gradient, sample_gradient
from hf_unlearn.trainer.samples.sample_access import SampleAccess
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


@pytest.fixture
def passes(monkeypatch) -> list:
    """The batches that take a pass of their own to show their losses."""
    batches, sample_losses = [], SampleAccess.sample_losses

    def counted(self, batch):
        batches.append(batch)
        return sample_losses(self, batch)

    monkeypatch.setattr(SampleAccess, "sample_losses", counted)
    return batches


def limited_step(
    tmp_path, losses: list[float], rows: torch.Tensor, retain: torch.Tensor, scale: float, **options
) -> float:
    """How far a step is from that of the samples below a limit, of which there are some.

    Args:
        losses, rows: of the forget samples; the trainer's are `scale` times as large.
    """
    limit = sorted(losses)[1] + 1e-3
    below = torch.tensor(losses) < limit
    assert 0 < int(below.sum()) < len(FORGET)
    limited = {"max_forget_loss": scale * limit, "alpha": 0.0, "granularity": "model"}
    found = step(whisper(), tmp_path, **limited, **options)
    u = scale * (rows * below[:, None]).sum(0) / len(FORGET)
    return relative(found, orthograd_gradient(u, retain, 0.0))


@pytest.mark.parametrize("one_by_one", [False, True])
def test_only_samples_below_the_limit_are_forgotten(one_by_one, tmp_path, monkeypatch, passes):
    """The step's own pass shows which ones they are."""
    forget, (_, retain) = (losses_and_gradients(whisper(), rows) for rows in (FORGET, RETAIN))
    if one_by_one:
        monkeypatch.setattr("hf_unlearn.trainer.samples.engine_choice.samples_mix", lambda *_: True)
    assert limited_step(tmp_path, *forget, retain, scale=1.0) < 1e-3 and not passes


class Doubled(UnlearnTrainer):
    """A trainer whose loss is twice the model's."""

    def compute_loss(self, model, inputs, return_outputs=False, **more):
        return 2 * super().compute_loss(model, inputs, return_outputs, **more)


@pytest.mark.parametrize("method", ["orthograd", "gradient_ascent"])
def test_where_the_pass_does_not_show_the_losses_they_are_computed(method, tmp_path, passes):
    """The trainer doubles the model's loss; or the method trains with the model's dropout."""
    (losses, rows), (_, retain) = (losses_and_gradients(whisper(), r) for r in (FORGET, RETAIN))
    if method == "orthograd":
        assert limited_step(tmp_path, losses, rows, retain, 2.0, trainer=Doubled) < 1e-3
    else:
        options = {"max_forget_loss": sorted(losses)[1] + 1e-3, "method": method}
        step(whisper(), tmp_path, **options)
    assert len(passes) == 1


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
