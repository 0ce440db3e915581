"""A trainer's second run, and attempts with smaller batches, take the same steps as a first run."""

import copy

import pytest
import torch
from transformers import set_seed
from transformers.trainer_utils import HPSearchBackend

from tests.support.memory import Fails, OutOfMemory
from tests.support.tiny import FORGET, RETAIN, make_trainer, tiny_whisper, utterances

STEPS = {
    "max_steps": 3,
    "optimizer": False,
    "learning_rate": 1e-2,
    "lr_scheduler_type": "linear",
    "optim": "adamw_torch",
}


def weights(model) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def logged(trainer) -> list[tuple]:
    rows = [row for row in trainer.state.log_history if "loss" in row]
    return [(row["forget_loss"], row["retain_loss"], row.get("rank")) for row in rows]


def of_model_init(tmp_path, **options):
    """A trainer that creates a new model for each run."""
    set_seed(0)
    start = tiny_whisper()
    return make_trainer(
        None, tmp_path, arguments={"model_init": lambda: copy.deepcopy(start)}, **STEPS, **options
    )


@pytest.mark.parametrize("method", ["orthograd", "gradient_difference"])
def test_the_second_run_of_a_model_init_is_the_first(tmp_path, method):
    trainer = of_model_init(
        tmp_path, method=method, per_device_train_batch_size=4, per_device_retain_batch_size=2
    )
    runs = []
    for _ in range(2):
        trainer.train()
        runs.append((weights(trainer.model), logged(trainer)))
    assert torch.equal(runs[0][0], runs[1][0]) and runs[0][1] == runs[1][1]


def test_a_search_for_hyperparameters_trains_with_them(tmp_path, monkeypatch):
    """Through Trainer's interface for search backends: alpha and the size of the retain batch."""
    expected = of_model_init(tmp_path, alpha=0.0, per_device_retain_batch_size=2)
    expected.train()
    trainer = of_model_init(tmp_path, alpha=0.9)
    trainer.train()
    # Otherwise Trainer asks ray for a name.
    monkeypatch.setattr("transformers.integrations.hp_params", dict)
    monkeypatch.setattr(trainer, "_get_output_dir", lambda trial: str(tmp_path))
    trainer.hp_search_backend = HPSearchBackend.RAY
    trainer.train(trial={"alpha": 0.0, "per_device_retain_batch_size": 2})
    assert torch.equal(weights(trainer.model), weights(expected.model))


def test_a_second_run_continues_from_the_weights_of_the_first(tmp_path):
    """With the same trainer and with another trainer on the same model."""
    model = tiny_whisper()
    options = {"max_steps": 1, "learning_rate": 1e-3}
    trainer = make_trainer(
        model, tmp_path, arguments={"eval_dataset": {"forget": FORGET}}, **options
    )
    trainer.evaluate()
    trainer.train()
    middle = copy.deepcopy(model)
    trainer.train()
    other = make_trainer(middle, tmp_path, **options)
    other.train()
    assert torch.equal(weights(model), weights(middle)) and logged(trainer) == logged(other)
    again = make_trainer(model, tmp_path, **options)
    again.train()
    make_trainer(middle, tmp_path, **options).train()
    assert torch.equal(weights(model), weights(middle))


@pytest.mark.parametrize("granularity", ["parameter", "model"])
@pytest.mark.parametrize("part", ["forget", "retain"])
def test_attempts_end_in_the_plain_run_with_the_smaller_batch(tmp_path, caplog, part, granularity):
    """Only the batch that did not fit shrinks, and the attempt that fits starts as if it were the
    first."""
    forget, retain = utterances(8, seed=1), utterances(9, seed=2)
    fits = {
        "forget": {"per_device_train_batch_size": 4},
        "retain": {"per_device_retain_batch_size": 4},
    }[part]
    options = {**STEPS, "forget": forget, "retain": retain, "granularity": granularity}
    sizes = {"per_device_train_batch_size": 6, "per_device_retain_batch_size": 6}
    start = tiny_whisper(dropout=0.1)
    models = [copy.deepcopy(start) for _ in range(2)]
    plain = make_trainer(models[0], tmp_path, **options, **{**sizes, **fits})
    plain.train()

    memory = OutOfMemory(models[1], largest=4, only_of={"forget": forget, "retain": retain}[part])
    callbacks = {"callbacks": [Fails(memory)]}
    trainer = make_trainer(
        models[1], tmp_path, auto_find_batch_size=True, arguments=callbacks, **options, **sizes
    )
    trainer.train()
    assert logged(trainer) == logged(plain) and torch.equal(*map(weights, models))
    final_sizes = (
        trainer.args.per_device_train_batch_size,
        trainer.args.per_device_retain_batch_size,
    )
    assert final_sizes == {"forget": (4, 6), "retain": (6, 4)}[part]
    assert caplog.text.count("Out of memory with") == 2


def test_a_single_sample_that_does_not_fit_is_an_error(tmp_path):
    model = tiny_whisper()
    callbacks = {"callbacks": [Fails(OutOfMemory(model, largest=0, only_of=RETAIN))]}
    with pytest.raises(MemoryError, match="not enough memory for a single retain sample"):
        make_trainer(
            model,
            tmp_path,
            arguments=callbacks,
            auto_find_batch_size=True,
            per_device_retain_batch_size=2,
            max_steps=2,
        ).train()


def test_a_retain_sample_that_does_not_fit_before_the_first_step_is_an_error(tmp_path):
    """The check of padding computes it."""
    model = tiny_whisper()
    OutOfMemory(model, largest=0, only_of=RETAIN).fails = True
    with pytest.raises(MemoryError, match="not enough memory for a single retain sample"):
        make_trainer(
            model, tmp_path, auto_find_batch_size=True, per_device_retain_batch_size=2
        ).train()
