"""Weights stored in half precision are trained in float32, and an evaluation in half precision
restores the exact weights."""

import copy
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import ViTForImageClassification, WhisperForConditionalGeneration

from hf_unlearn.hub import staging as hub
from hf_unlearn.trainer.setup import precision
from tests.support.tiny import (
    FORGET,
    RETAIN,
    collate_images,
    images,
    make_trainer,
    tiny_vit,
    tiny_whisper,
)

IMAGES = {"forget": images(6), "retain": images(4, seed=1), "collator": collate_images}


@pytest.fixture
def warned(warnings_of) -> list[str]:
    return warnings_of(precision)


def weights(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("make, data", [(tiny_whisper, {}), (tiny_vit, IMAGES)])
def test_a_model_in_half_precision_trains_as_the_same_one_in_float32(
    tmp_path, warned, dtype, make, data
):
    """The optimizer is the user's, of the half-precision parameters."""
    half = make().to(dtype)
    whole = copy.deepcopy(half).float()
    for model in (half, whole):
        trainer = make_trainer(model, tmp_path, **data, max_steps=1)
        trainer.train()
    assert same(weights(half), weights(whole))
    assert (
        len(warned) == 1
        and str(dtype).removeprefix("torch.") in warned[0]
        and "bf16=True" in warned[0]
    )


def test_small_updates_are_not_lost(tmp_path):
    """At a learning rate of 1e-4 most steps are below what bfloat16 can hold."""
    model = tiny_vit().to(torch.bfloat16)
    before = weights(model)
    trainer = make_trainer(
        model, tmp_path, **IMAGES, optimizer=False, learning_rate=1e-4, optim="adamw_torch"
    )
    trainer.train()
    changed = sum(int((before[name].float() != p).sum()) for name, p in model.named_parameters())
    assert changed > 0.95 * sum(p.numel() for p in model.parameters())


def test_the_state_of_a_users_optimizer_is_converted_too(tmp_path):
    model = tiny_vit().to(torch.bfloat16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    precision.train_in_float32(model, optimizer)
    assert all(p.grad is None for p in model.parameters())
    assert {state["momentum_buffer"].dtype for state in optimizer.state.values()} == {torch.float32}
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {
        id(p) for p in model.parameters()
    }


@pytest.mark.parametrize(
    "make, load, data",
    [
        (tiny_whisper, WhisperForConditionalGeneration, {}),
        (tiny_vit, ViTForImageClassification, IMAGES),
    ],
)
def test_what_is_saved_is_what_was_trained(tmp_path, make, load, data):
    """In float32, because rounding to the original precision would undo small updates."""
    make().to(torch.bfloat16).save_pretrained(tmp_path / "base")
    model = load.from_pretrained(tmp_path / "base")
    assert model.dtype == torch.bfloat16
    trainer = make_trainer(model, tmp_path / "out", **data)
    trainer.train()
    trainer.save_model()
    loaded = load.from_pretrained(tmp_path / "out")
    assert loaded.dtype == torch.float32 and same(weights(loaded), weights(model))


@pytest.mark.parametrize("make, data", [(tiny_whisper, {}), (tiny_vit, IMAGES)])
def test_an_adapter_is_trained_in_float32_on_a_frozen_half_precision_base(
    tmp_path, warned, make, data
):
    """Inputs in float32 meet a convolution in bfloat16."""
    model = make().to(torch.bfloat16)
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights="gaussian")
    trainer = make_trainer(
        model, tmp_path, **data, optimizer=False, max_steps=2, arguments={"peft_config": lora}
    )
    before = weights(trainer.model)
    trainer.train()
    trainer.evaluate(data.get("forget", FORGET))
    after = dict(trainer.model.named_parameters())
    assert {p.dtype for p in after.values() if p.requires_grad} == {torch.float32} and not warned
    assert all(
        (torch.equal(before[n], p) and p.dtype == torch.bfloat16) != p.requires_grad
        for n, p in after.items()
    )


@pytest.mark.parametrize(
    "full_eval, generate", [("bf16_full_eval", True), ("fp16_full_eval", False)]
)
def test_evaluation_in_half_precision_restores_the_exact_weights(tmp_path, full_eval, generate):
    model = tiny_whisper()
    before, buffers = weights(model), copy.deepcopy(dict(model.named_buffers()))
    trainer = make_trainer(model, tmp_path, **{full_eval: True}, predict_with_generate=generate)
    seen = []
    # The first evaluation also looks at padding, in float32.
    trainer.evaluate(FORGET)
    model.register_forward_pre_hook(lambda module, args: seen.append(module.dtype))
    trainer.evaluate(FORGET)
    trainer.predict(RETAIN)
    assert set(seen) == {torch.bfloat16 if full_eval == "bf16_full_eval" else torch.float16}
    assert same(weights(model), before)
    assert all(torch.equal(buffers[name], buffer) for name, buffer in model.named_buffers())
    plain = copy.deepcopy(model)
    trainer.train()
    make_trainer(plain, tmp_path).train()
    assert same(weights(model), weights(plain))


def test_checks_during_training_leave_the_weights(tmp_path):
    changes = {
        "max_steps": 2,
        "learning_rate": 0.01,
        "check_steps": 1,
        "stop_when": "forget_loss >= 1000000",
        "arguments": {"eval_dataset": {"forget": FORGET}},
    }
    one = tiny_whisper()
    other = copy.deepcopy(one)
    make_trainer(one, tmp_path, bf16_full_eval=True, **changes).train()
    make_trainer(other, tmp_path, **changes).train()
    assert same(weights(one), weights(other))


def test_what_cannot_be_converted_is_refused(tmp_path):
    model = tiny_whisper().to(torch.float16)
    model.is_quantized = True
    with pytest.raises(ValueError, match="are in float16, .*quantised"):
        precision.train_in_float32(model)


def test_an_adapter_is_merged_in_float32_into_a_base_stored_in_half(tmp_path):
    tiny_vit().to(torch.bfloat16).save_pretrained(tmp_path / "base")
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    base = ViTForImageClassification.from_pretrained(tmp_path / "base", dtype=torch.float32)
    adapted = get_peft_model(base, lora)
    adapted.save_pretrained(tmp_path / "adapter")
    (tmp_path / "merged").mkdir()
    hub.merge_adapter(tmp_path / "adapter", tmp_path / "merged")
    merged = ViTForImageClassification.from_pretrained(tmp_path / "merged")
    again = ViTForImageClassification.from_pretrained(tmp_path / "base", dtype=torch.float32)
    expected = PeftModel.from_pretrained(again, Path(tmp_path / "adapter")).merge_and_unload()
    assert merged.dtype == torch.float32
    assert all(
        torch.allclose(a, b, atol=1e-7) for a, b in zip(merged.parameters(), expected.parameters())
    )
