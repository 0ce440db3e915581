"""Plain and subclassed TrainingArguments keep everything they hold when the fields of unlearning
are added."""

import copy
import dataclasses
import pickle
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig, Seq2SeqTrainingArguments, TrainingArguments

from hf_unlearn import UnlearnConfig, UnlearnTrainer
from hf_unlearn.config import as_unlearn_config
from tests.support.tiny import FORGET, RETAIN, collate, tiny_whisper


@dataclass
class ScriptArguments(Seq2SeqTrainingArguments):
    """As scripts write them: a field of their own, a property, and a value that JSON cannot
    hold."""

    freeze_encoder: bool = False
    data_folder: Path = Path("data")
    kinds: list = field(default_factory=lambda: [torch.float32])

    @property
    def doubled(self) -> float:
        return 2 * self.learning_rate


@dataclass
class FewerArguments(TrainingArguments):
    alpha: float = 0.25


GIVEN = {
    "lr_scheduler_kwargs": {"num_cycles": 2},
    "accelerator_config": {"split_batches": False, "even_batches": False},
    "optim": "adamw_torch",
    "hub_token": "hf_secret",
    "debug": "underflow_overflow",
    "use_cpu": True,
    "report_to": [],
}


@pytest.mark.parametrize(
    "make, meant",
    [
        (lambda: UnlearnConfig("out", retain_batch_size=3), "per_device_retain_batch_size"),
        (lambda: UnlearnTrainer(tiny_whisper(), retian_dataset=RETAIN), "retain_dataset"),
    ],
    ids=["config", "trainer"],
)
def test_an_unknown_argument_is_answered_with_similar_ones(make, meant):
    with pytest.raises(TypeError, match=rf"unknown argument 'ret\w+'; did you mean .*{meant}"):
        make()


@pytest.mark.parametrize(
    "kind", [TrainingArguments, Seq2SeqTrainingArguments, ScriptArguments, FewerArguments]
)
def test_everything_that_plain_arguments_hold_stays(tmp_path, kind):
    args = kind(str(tmp_path), **GIVEN)
    config = as_unlearn_config(args)
    assert isinstance(config, UnlearnConfig) and isinstance(config, kind)
    assert {
        name: value
        for name, value in vars(config).items()
        if name in vars(args) and name != "logging_steps"
    } == {name: value for name, value in vars(args).items() if name != "logging_steps"}
    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(UnlearnConfig)}
    assert (
        values["method"] == "orthograd"
        and values["check_steps"] == 10
        and values["predict_with_generate"] is False
    )
    assert values["alpha"] == getattr(args, "alpha", 0.5)


def test_fields_and_methods_of_a_subclass_stay_when_it_is_copied_replaced_pickled_and_written(
    tmp_path,
):
    config = as_unlearn_config(
        ScriptArguments(str(tmp_path), freeze_encoder=True, learning_rate=0.5, use_cpu=True)
    )
    for same in (
        config,
        copy.copy(config),
        dataclasses.replace(config),
        pickle.loads(pickle.dumps(config)),
    ):
        assert same.freeze_encoder and same.doubled == 1.0 and type(same) is type(config)
    assert config.to_dict()["freeze_encoder"] is True and "hide_names" not in config.to_dict()


@pytest.mark.parametrize("steps", [None, 500, 25])
def test_plain_arguments_log_each_step_unless_they_say_otherwise(tmp_path, steps):
    """Unlearning runs are shorter than the 500 steps after which plain arguments log first."""
    options = {} if steps is None else {"logging_steps": steps}
    assert as_unlearn_config(TrainingArguments(str(tmp_path), **options)).logging_steps == (
        25 if steps == 25 else 1
    )
    assert UnlearnConfig(str(tmp_path), logging_steps=500).logging_steps == 500


def test_a_field_of_the_same_name_with_another_meaning_is_refused(tmp_path):
    with pytest.raises(ValueError, match="alpha is 16"):
        as_unlearn_config(FewerArguments(str(tmp_path), alpha=16))


def test_a_trainer_runs_saves_and_writes_its_card_with_a_scripts_arguments(tmp_path):
    """A GenerationConfig is an object that to_dict turns into a dict, which the arguments do not
    take back."""
    args = ScriptArguments(
        str(tmp_path),
        max_steps=1,
        per_device_train_batch_size=4,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        freeze_encoder=True,
        predict_with_generate=True,
        generation_config=GenerationConfig(
            max_length=5, decoder_start_token_id=3, eos_token_id=2, pad_token_id=0
        ),
    )
    trainer = UnlearnTrainer(
        tiny_whisper(), args, collate, FORGET, RETAIN[:2], retain_dataset=RETAIN
    )
    trainer.train()
    trainer.evaluate()
    trainer.save_model()
    trainer.create_model_card()
    assert trainer.args.freeze_encoder
    assert any("forget_loss" in row for row in trainer.state.log_history)
