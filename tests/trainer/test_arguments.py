"""A trainer changes its own copy of the arguments, so that the caller can use them again."""

import copy
import dataclasses

import pytest
from peft import LoraConfig

from hf_unlearn import UnlearnTrainer
from tests.support.memory import Fails, OutOfMemory
from tests.support.tiny import (
    collate,
    collate_images,
    images,
    make_trainer,
    tiny_vit,
    tiny_whisper,
    utterances,
)
from tests.support.tiny_speech import collate_padded, tiny_wav2vec2, voices


def fields_of(args) -> dict:
    return {field.name: getattr(args, field.name) for field in dataclasses.fields(args)}


class Keeping(UnlearnTrainer):
    """Keeps the arguments that it was given, and what they held."""

    def __init__(self, *, args, **keywords):
        self.given_args, self.held = args, copy.deepcopy(fields_of(args))
        super().__init__(args=args, **keywords)


def run(model, tmp_path, **options):
    trainer = make_trainer(model, tmp_path, trainer=Keeping, **options)
    trainer.train()
    return trainer


def where_padding_matters(tmp_path):
    data = {"forget": voices(300, 120), "retain": voices(150, 400), "collator": collate_padded}
    trainer = run(tiny_wav2vec2("group"), tmp_path, per_device_eval_batch_size=3, **data)
    return trainer, "per_device_eval_batch_size", 1


def where_memory_runs_out(tmp_path):
    model, retain = tiny_whisper(), utterances(9, seed=2)
    callbacks = [Fails(OutOfMemory(model, largest=4, only_of=retain))]
    options = {"retain": retain, "per_device_retain_batch_size": 5, "max_steps": 2}
    arguments = {"callbacks": callbacks}
    trainer = run(model, tmp_path, auto_find_batch_size=True, arguments=arguments, **options)
    return trainer, "per_device_retain_batch_size", 4


def with_an_adapter(tmp_path):
    arguments = {"peft_config": LoraConfig(r=2, target_modules=["q_proj"])}
    options = {"gradient_checkpointing": True, "optimizer": False, "arguments": arguments}
    return run(tiny_whisper(), tmp_path, **options), "ddp_find_unused_parameters", False


def with_one_step(tmp_path):
    data = {"forget": images(4), "retain": images(4, seed=2), "collator": collate_images}
    trainer = run(tiny_vit(), tmp_path, method="fisher", max_steps=7, **data)
    return trainer, "max_steps", 1


def after_resuming(tmp_path):
    options = {"optimizer": False, "save_strategy": "steps", "save_steps": 1, "collator": collate}
    make_trainer(tiny_whisper(), tmp_path, hide_names=["anna"], **options).train()
    options |= {"max_steps": 2, "resume_from_checkpoint": "true", "hide_names": ["bruno"]}
    return run(tiny_whisper(), tmp_path, **options), "hide_names", ["bruno", "anna"]


@pytest.mark.parametrize(
    "case",
    [where_padding_matters, where_memory_runs_out, with_an_adapter, with_one_step, after_resuming],
)
def test_the_arguments_of_the_caller_stay_as_they_were(tmp_path, case):
    trainer, name, value = case(tmp_path)
    assert getattr(trainer.args, name) == value != trainer.held[name]
    assert fields_of(trainer.given_args) == trainer.held
