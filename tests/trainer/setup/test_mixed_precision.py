"""Mixed precision takes the step of plain precision, within its error."""

import pytest
import torch
from peft import LoraConfig
from transformers import (
    TrainerCallback,
    set_seed,
)

from tests.support.tiny import checkpointing, make_trainer, tiny_whisper
from tests.trainer.brute_force import relative


def lora():
    return LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)


ACCUMULATED = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}


class Unscales(TrainerCallback):
    """Makes accelerate unscale gradients before clipping.

    Set earlier, `native_amp` would make it wrap the model for a GPU.
    """

    def __init__(self, trainer):
        self.trainer = trainer

    def on_train_begin(self, *_, **__):
        self.trainer.accelerator.native_amp = True


def mixed_step(
    tmp_path, precision: str | None, with_lora: bool, monkeypatch, **options
) -> torch.Tensor:
    """One step of SGD.

    accelerate offers fp16 on GPUs only; here its two parts, autocast and scaler, replace it.
    """
    set_seed(0)
    arguments = {"peft_config": lora() if with_lora else None}
    trainer = make_trainer(
        tiny_whisper(),
        tmp_path,
        optimizer=False,
        optim="sgd",
        arguments=arguments,
        bf16=precision == "bf16",
        **options,
    )
    if precision == "fp16":
        monkeypatch.setattr(type(trainer.accelerator), "mixed_precision", "fp16")
        monkeypatch.setattr(
            trainer.model, "forward", torch.autocast("cpu", torch.float16)(trainer.model.forward)
        )
        trainer.accelerator.scaler = torch.amp.GradScaler("cpu")
        trainer.add_callback(Unscales(trainer))
    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in trained]
    trainer.train()
    return torch.cat([(a - b).flatten() for a, b in zip(before, trained)])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize(
    ("with_lora", "options"),
    [
        (False, {}),
        (False, {"granularity": "model", **ACCUMULATED, **checkpointing(False)}),
        (False, {"max_grad_norm": 0.1, **ACCUMULATED, **checkpointing(True)}),
        (True, {"max_grad_norm": 0.01, **ACCUMULATED, **checkpointing(False)}),
        (True, {"granularity": "model", **checkpointing(True)}),
    ],
)
def test_mixed_precision_is_the_plain_step_within_its_error(
    tmp_path, precision, with_lora, options, monkeypatch
):
    plain = {
        key: value for key, value in options.items() if key in ("granularity", "max_grad_norm")
    }
    expected = mixed_step(tmp_path, None, with_lora, monkeypatch, **plain)
    got = mixed_step(tmp_path, precision, with_lora, monkeypatch, **options)
    # An error of 0 would mean that this precision was not used.
    assert 0 < relative(got, expected) < {"bf16": 3e-2, "fp16": 5e-3}[precision]
