"""`step_control="drift"`: no retain sample's loss rises by more than the bound, whatever the
learning rate is."""

import copy

import pytest
import torch
from transformers import TrainerCallback, set_seed

from tests.support.tiny import FORGET, RETAIN, collate, make_trainer, tiny_whisper

BOUND = 0.01


class Watch(TrainerCallback):
    """Computes, after each step, every sample's loss by itself."""

    def __init__(self):
        self.retain, self.forget = [], []

    def on_train_begin(self, args, state, control, model, **kwargs):
        self.measure(model)

    def on_step_end(self, args, state, control, model, **kwargs):
        self.measure(model)

    @torch.no_grad()
    def measure(self, model) -> None:
        alone = copy.deepcopy(model).eval()
        for samples, losses in ((RETAIN, self.retain), (FORGET, self.forget)):
            losses.append(torch.stack([alone(**collate([sample])).loss for sample in samples]))


def trained_whisper():
    """A model that knows the retain set, so that a step can lose something."""
    set_seed(0)
    model = tiny_whisper()
    trainer = make_trainer(
        model, "unused", method="finetune", learning_rate=0.5, max_steps=30, logging_steps=100
    )
    trainer.train()
    return model


@pytest.fixture(scope="module")
def model():
    return trained_whisper()


def controlled(model, tmp_path, **options):
    """A trained trainer, and what was measured of its steps."""
    watch = Watch()
    options = {"step_control": "drift", "max_drift": BOUND, "alpha": 0.0, **options}
    trainer = make_trainer(
        copy.deepcopy(model), tmp_path, arguments={"callbacks": [watch]}, **options
    )
    trainer.train()
    return trainer, watch


def logged(trainer, name: str) -> list[float]:
    return [row[name] for row in trainer.state.log_history if name in row]


@pytest.mark.parametrize(
    "rate, options",
    [
        (1e-4, {}),
        (1e3, {}),
        (1.0, {"granularity": "model"}),
        (1e-2, {"optim": "adamw_torch", "alpha": 0.5}),
        (1.0, {"method": "gradient_difference", "alpha": 0.5}),
    ],
)
def test_the_bound_holds_and_is_used_at_any_rate(model, tmp_path, rate, options):
    optimizer = "optim" not in options
    trainer, watch = controlled(
        model, tmp_path, max_steps=5, learning_rate=rate, optimizer=optimizer, **options
    )
    rises = [float((b - a).max()) for a, b in zip(watch.retain, watch.retain[1:])]
    assert logged(trainer, "drift") == pytest.approx(rises, abs=1e-5)
    assert max(rises) <= BOUND + 1e-5
    # Most of the bound is used, so that the run is not slower than it must be.
    assert max(rises) > BOUND / 3
    gains = [float((b - a).mean()) for a, b in zip(watch.forget, watch.forget[1:])]
    assert logged(trainer, "forget_rise") == pytest.approx(gains, abs=1e-5)
    assert min(gains) > 0


def test_a_resumed_run_is_as_uninterrupted(model, tmp_path):
    saved = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    straight, _ = controlled(model, tmp_path, **saved)
    trainer = make_trainer(
        copy.deepcopy(model), tmp_path, step_control="drift", max_drift=BOUND, alpha=0.0, **saved
    )
    trainer.train(resume_from_checkpoint=f"{tmp_path}/checkpoint-2")
    pairs = zip(trainer.model.parameters(), straight.model.parameters())
    assert all(torch.equal(a, b) for a, b in pairs)


def test_ends_where_no_step_forgets_within_the_bound(model, tmp_path, caplog):
    """The retain set is nearly the forget set: what is forgotten there is lost here."""
    retain = [{**s, "input_features": s["input_features"] + 1e-4} for s in FORGET]
    trainer, _ = controlled(
        model, tmp_path, max_steps=20, retain=retain, alpha=0.0, max_drift=1e-6, learning_rate=1e-3
    )
    assert trainer.state.global_step < 20
    assert trainer.stopping["reason"] == "no step forgets within max_drift"
    assert "max_drift=1e-06" in caplog.text


@pytest.mark.parametrize(
    "options, message",
    [
        ({"method": "gradient_ascent"}, "step_control='drift'"),
        ({"max_drift": 0.0}, "max_drift is 0"),
        ({"step_control": "trust"}, "step_control is 'trust'"),
    ],
)
def test_what_cannot_work_is_refused(model, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(model, tmp_path, **{"step_control": "drift", **options})
