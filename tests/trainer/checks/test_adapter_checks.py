"""Adapters that do not fit the model are refused in one line."""

import pytest
from peft import LoraConfig, PromptTuningConfig, get_peft_model

from tests.support.tiny import (
    make_trainer,
    tiny_vit,
    tiny_whisper,
)
from tests.trainer.checks.image_trainers import IMAGES, image_trainer


def test_an_adapter_that_fits_no_layer_is_answered_with_the_layers_there_are(tmp_path):
    for wanted in (["q_prj"], "q_prj", ["nothing_like_it"]):
        with pytest.raises(
            ValueError, match="target_modules is .*names no layer.*q_proj"
        ) as raised:
            config = LoraConfig(target_modules=wanted)
            make_trainer(tiny_whisper(), tmp_path, arguments={"peft_config": config})
        assert "\n" not in str(raised.value)


def test_target_modules_cannot_be_whole_blocks(tmp_path):
    """peft's own message ends with a dump of the module."""
    with pytest.raises(ValueError, match="names no layer") as raised:
        image_trainer(tmp_path, {"peft_config": LoraConfig(target_modules=["attention"])})
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize(
    "make, data, reads", [(tiny_whisper, {}, "input_features"), (tiny_vit, IMAGES, "pixel_values")]
)
@pytest.mark.parametrize("task", ["SEQ_2_SEQ_LM", "CAUSAL_LM", "SEQ_CLS", "FEATURE_EXTRACTION"])
def test_task_types_are_for_models_that_read_token_ids(tmp_path, make, data, reads, task):
    """Otherwise the first step fails with "multiple values for keyword argument 'input_ids'"."""
    config = LoraConfig(task_type=task, target_modules=["q_proj", "v_proj"])
    with pytest.raises(
        ValueError, match=f"task_type='{task}' .*reads {reads}: leave task_type out"
    ):
        make_trainer(make(), tmp_path, **data, optimizer=False, arguments={"peft_config": config})


def test_a_model_with_such_an_adapter_is_refused_too(tmp_path):
    model = get_peft_model(
        tiny_whisper(), LoraConfig(task_type="SEQ_2_SEQ_LM", target_modules=["q_proj"])
    )
    with pytest.raises(ValueError, match="leave task_type out"):
        make_trainer(model, tmp_path, optimizer=False)


def test_learned_prompts_are_for_models_that_read_token_ids(tmp_path):
    config = PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=2)
    with pytest.raises(ValueError, match="PROMPT_TUNING .*reads input_features: use a LoraConfig"):
        make_trainer(tiny_whisper(), tmp_path, optimizer=False, arguments={"peft_config": config})
