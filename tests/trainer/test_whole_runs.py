"""Whole runs of a trainer: what is trained, logged, evaluated, saved and resumed."""

import copy
import json

import pytest
import torch
from peft import LoraConfig
from transformers import (
    Seq2SeqTrainingArguments,
    WhisperForConditionalGeneration,
)

from hf_unlearn import UnlearnTrainer
from tests.support.callbacks import CallAtStep, interrupt
from tests.support.tiny import FORGET, RETAIN, collate, make_trainer, tiny_whisper


def test_only_adapters_are_trained(tmp_path):
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    trainer = make_trainer(
        tiny_whisper(), tmp_path, optimizer=False, arguments={"peft_config": config}
    )
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    changed = {
        name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])
    }
    assert changed and all("lora_" in name for name in changed)


def test_every_step_is_logged(tmp_path):
    trainer = make_trainer(
        tiny_whisper(),
        tmp_path,
        max_steps=3,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        optimizer=False,
        learning_rate=1e-4,
    )
    trainer.train()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert [row["step"] for row in rows] == [1, 2, 3]
    for row in rows:
        assert row["loss"] == pytest.approx(row["forget_loss"], rel=1e-3)
        assert (
            0 < row["kept"] < 1
            and row["rank"] == 5
            and row["residual"] <= 1e-5
            and row["retain_loss"] > 0
        )


@pytest.mark.parametrize("batch_size", [1, 3])
def test_evaluation_loss_does_not_depend_on_batches(tmp_path, batch_size):
    model = tiny_whisper().eval()
    trainer = make_trainer(
        model,
        tmp_path,
        arguments={"eval_dataset": {"forget": FORGET}},
        per_device_eval_batch_size=batch_size,
    )
    alone = torch.stack([model(**collate([sample])).loss for sample in FORGET]).mean()
    assert trainer.evaluate()["eval_forget_loss"] == pytest.approx(float(alone), rel=1e-5)


@pytest.mark.parametrize("method", ["orthograd", "gradient_difference"])
def test_resumed_run_ends_like_a_straight_one(tmp_path, method):
    """Bit for bit, with dropout, an adaptive optimizer, a learning rate schedule, and retain
    batches that differ between steps."""
    options = {
        "method": method,
        "max_steps": 6,
        "save_strategy": "steps",
        "save_steps": 2,
        "optimizer": False,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "linear",
        "per_device_train_batch_size": 3,
        "per_device_retain_batch_size": 2,
    }
    start = tiny_whisper(dropout=0.1)
    straight, broken, resumed = (copy.deepcopy(start) for _ in range(3))
    make_trainer(straight, tmp_path / "straight", **options).train()
    with pytest.raises(KeyboardInterrupt):
        make_trainer(
            broken,
            tmp_path / "broken",
            arguments={"callbacks": [CallAtStep(3, interrupt)]},
            **options,
        ).train()
    make_trainer(resumed, tmp_path / "broken", **options).train(resume_from_checkpoint=True)
    for (name, expected), got in zip(straight.named_parameters(), resumed.parameters()):
        assert torch.equal(expected, got), name


def test_a_saved_model_loads_with_transformers_alone(tmp_path):
    trainer = make_trainer(tiny_whisper(), tmp_path)
    trainer.train()
    trainer.save_model()
    loaded = WhisperForConditionalGeneration.from_pretrained(tmp_path)
    for expected, got in zip(trainer.model.parameters(), loaded.parameters()):
        assert torch.equal(expected, got)


def test_existing_code_changes_one_class_name(tmp_path):
    """`train_dataset` is an alias, and plain Seq2SeqTrainingArguments get the defaults of
    UnlearnConfig's own fields."""
    args = Seq2SeqTrainingArguments(
        str(tmp_path),
        max_steps=1,
        per_device_train_batch_size=4,
        report_to="none",
        use_cpu=True,
        save_strategy="no",
        learning_rate=3e-4,
        predict_with_generate=True,
    )
    trainer = UnlearnTrainer(
        model=tiny_whisper(),
        args=args,
        train_dataset=FORGET,
        retain_dataset=RETAIN,
        data_collator=collate,
    )
    assert (
        trainer.args.learning_rate == 3e-4
        and trainer.args.predict_with_generate
        and trainer.args.method == "orthograd"
    )
    assert trainer.train().global_step == 1


def test_settings_are_json(tmp_path):
    json.dumps(make_trainer(tiny_whisper(), tmp_path).args.to_dict())
