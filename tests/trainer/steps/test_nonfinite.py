"""A step with a loss or gradient that is not finite is skipped and counted, and its samples are
named."""

import copy
import json
import logging

import pytest
import torch
from transformers import TrainerCallback, set_seed

from hf_unlearn.per_sample.shards import all_finite
from tests.support.tiny import FORGET, RETAIN, make_trainer, tiny_whisper


def broken(samples, *indices, value=float("nan")):
    """Copies of samples, where those at `indices` have a feature that is not finite."""
    samples = copy.deepcopy(samples)
    for index in indices:
        samples[index]["input_features"][0, 7] = value
    return samples


def steps(trainer) -> list[bool]:
    """Trains, and returns for each optimizer step whether it changed the weights."""
    seen = [torch.cat([p.detach().flatten().clone() for p in trainer.model.parameters()])]

    def after_step(self, *_, **__):
        seen.append(torch.cat([p.detach().flatten().clone() for p in trainer.model.parameters()]))

    trainer.add_callback(type("Watch", (TrainerCallback,), {"on_step_end": after_step})())
    trainer.train()
    assert all(torch.isfinite(weights).all() for weights in seen)
    return [not torch.equal(before, after) for before, after in zip(seen, seen[1:])]


@pytest.fixture
def warned(caplog):
    """The warnings about skipped steps."""
    logging.getLogger("transformers").propagate = True
    logging.getLogger("hf_unlearn").propagate = True
    caplog.set_level(logging.WARNING)
    return lambda: [
        record.getMessage() for record in caplog.records if "is skipped" in record.getMessage()
    ]


@pytest.mark.parametrize("method", ["orthograd", "gradient_difference"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_forget_sample_skips_its_step_and_is_named(tmp_path, method, value, warned):
    trainer = make_trainer(
        tiny_whisper(),
        tmp_path,
        forget=broken(FORGET, 3, value=value),
        method=method,
        max_steps=4,
        per_device_train_batch_size=2,
        optimizer=False,
        learning_rate=1e-3,
        weight_decay=0.1,
    )
    moved = steps(trainer)
    assert moved.count(False) == 1
    (message,) = warned()
    assert (
        f"Step {moved.index(False) + 1} is skipped" in message
        and "that of forget sample 3." in message
    )
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert [row["skipped_steps"] for row in rows] == [
        sum(not m for m in moved[: i + 1]) for i in range(4)
    ]
    json.dumps(rows, allow_nan=False)


@pytest.mark.parametrize("granularity", ["parameter", "model"])
def test_broken_retain_samples_are_named(tmp_path, granularity, warned):
    trainer = make_trainer(
        tiny_whisper(),
        tmp_path,
        retain=broken(RETAIN, 1, 4),
        granularity=granularity,
        max_steps=3,
        per_device_retain_batch_size=2,
        optimizer=False,
        max_skipped_steps=4,
    )
    moved = steps(trainer)
    assert 1 <= moved.count(False) == len(warned()) <= 2
    assert "retain sample" in (text := " ".join(warned())) and "forget" not in text
    assert {
        int(word.strip(",."))
        for word in text.split("retain sample ")[1:]
        for word in word.split()[:1]
    } <= {1, 4}


def test_one_broken_micro_batch_skips_the_whole_step(tmp_path, warned):
    trainer = make_trainer(
        tiny_whisper(),
        tmp_path,
        forget=broken(FORGET, 0, 5),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
    )
    before = copy.deepcopy(trainer.model.state_dict())
    with pytest.raises(ValueError, match="no optimizer step was taken.*all 1 were skipped"):
        trainer.train()
    assert all(torch.equal(x, before[name]) for name, x in trainer.model.state_dict().items())
    assert "forget sample 0" in warned()[0] and "forget sample 5" in warned()[0]


def test_many_skipped_steps_in_a_row_end_the_run_with_the_last_good_weights(tmp_path):
    trainer = make_trainer(
        tiny_whisper(), tmp_path, retain=broken(RETAIN, 2), max_steps=9, max_skipped_steps=2
    )
    before = copy.deepcopy(trainer.model.state_dict())
    with pytest.raises(
        ValueError,
        match=r"2 optimizer steps in a row were skipped .*step 2 that of retain sample 2",
    ):
        trainer.train()
    assert all(
        torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items()
    )


def with_scaler(trainer, scale: float):
    """The trainer with the gradient scaler that accelerate creates on GPUs only."""
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    return trainer


def test_an_overflow_is_left_to_the_scaler(tmp_path, warned):
    """If the gradient overflows but the loss does not, the scaler halves its scale until the
    gradient fits, and no step is counted as skipped."""
    trainer = with_scaler(
        make_trainer(tiny_whisper(), tmp_path, max_steps=20, max_skipped_steps=1), scale=1e21
    )
    moved = steps(trainer)
    assert not moved[0] and moved[-1] and not warned()
    assert trainer.accelerator.scaler.get_scale() < 1e21
    assert trainer.state.log_history[0]["skipped_steps"] == 0


def test_a_broken_sample_does_not_lower_the_scale(tmp_path, warned):
    trainer = make_trainer(
        tiny_whisper(),
        tmp_path,
        forget=broken(FORGET, 3),
        per_device_train_batch_size=2,
        max_steps=4,
    )
    with_scaler(trainer, scale=1024.0)
    assert steps(trainer).count(False) == 1 == len(warned())
    assert trainer.accelerator.scaler.get_scale() == 1024.0


def test_steps_with_a_scaler_equal_plain_steps(tmp_path):
    def step(scale):
        model = tiny_whisper()
        before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
        trainer = make_trainer(model, tmp_path)
        (with_scaler(trainer, scale) if scale else trainer).train()
        return torch.cat([p.detach().flatten() for p in model.parameters()]) - before

    set_seed(0)
    plain = step(None)
    set_seed(0)
    assert (step(4096.0) - plain).norm() < 1e-5 * plain.norm()


@pytest.mark.parametrize(
    "values, expected",
    [
        ([1.0, -2.0], True),
        ([], True),
        ([1.0, float("nan")], False),
        ([float("inf"), 1.0], False),
        ([float("inf"), -float("inf")], False),
        # The sum of these overflows.
        ([3e38, 3e38], True),
        ([-3e38, 1.0, -3e38], True),
    ],
)
def test_values_that_are_not_finite_are_found_whatever_their_sum(values, expected):
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        assert all_finite([None, torch.ones(3), torch.tensor(values, dtype=dtype)]) == expected
    assert all_finite([torch.tensor([6e4, 6e4], dtype=torch.float16)])
