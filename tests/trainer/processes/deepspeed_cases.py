"""The runs that `test_deepspeed.py` compares: two processes use DeepSpeed, one does without it.

torchrun --standalone --nproc_per_node 2 tests/trainer/processes/deepspeed_cases.py <folder>
"""

import os
import sys

import torch
from accelerate.state import AcceleratorState
from peft import LoraConfig
from transformers import TrainerControl, set_seed

from tests.support.callbacks import CallAtStep
from tests.support.tiny import (
    collate,
    collate_images,
    images,
    make_trainer,
    tiny_vit,
    tiny_whisper,
    utterances,
)

PROCESSES, PROCESS = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
ACCUMULATE = {"forget": 8, "gradient_accumulation_steps": 2}
LORA = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
CASES = {
    "gradient_difference": {"stage": 2},
    "accumulation at stage 1": {"stage": 1, **ACCUMULATE},
    "accumulation at stage 0": {"stage": 0, **ACCUMULATE},
    "accumulation": {"stage": 2, **ACCUMULATE, "optim": "adamw_torch", "learning_rate": 1e-3},
    "gradient_ascent": {"stage": 2, "method": "gradient_ascent", **ACCUMULATE},
    "finetune": {"stage": 2, "method": "finetune"},
    "random_label": {"stage": 2, "method": "random_label"},
    "scrub": {"stage": 2, "method": "scrub", "method_kwargs": {"msteps": 1}},
    "bad_teacher": {"stage": 2, "method": "bad_teacher"},
    "npo": {"stage": 2, "method": "npo"},
    "duck": {"stage": 2, "method": "duck"},
    "boundary_shrink": {"stage": 2, "method": "boundary_shrink"},
    "lora": {"stage": 2, "lora": True},
    "checkpointing": {
        "stage": 2,
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
    },
    "broken forget sample": {"stage": 2, "broken": True, "forget": 8},
    "broken forget sample at stage 1": {
        "stage": 1,
        "broken": True,
        "forget": 8,
        "max_grad_norm": 0.0,
    },
    "broken forget sample at stage 0": {"stage": 0, "broken": True, "forget": 8},
}
IMAGES = ("duck", "boundary_shrink")


def deepspeed(stage: int) -> dict:
    auto = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
    config = {
        "zero_optimization": {"stage": stage},
        "bf16": {"enabled": "auto"},
        **dict.fromkeys(auto, "auto"),
    }
    return {"deepspeed": config} if PROCESSES > 1 else {}


def trainer_of(
    folder: str, stage: int, forget: int = 4, broken: bool = False, lora: bool = False, **case
):
    if PROCESSES > 1:
        # it holds DeepSpeed's configuration
        AcceleratorState._reset_state()
    set_seed(0)
    kind = images if case.get("method") in IMAGES else utterances
    samples = kind(forget, seed=1)
    if broken:
        samples[1]["input_features"][0, 0] = torch.nan
    return make_trainer(
        tiny_vit() if kind is images else tiny_whisper(encoder_layers=1, decoder_layers=1),
        folder,
        forget=samples,
        retain=kind(6, seed=2),
        collator=collate_images if kind is images else collate,
        optimizer=False,
        arguments={"peft_config": LORA if lora else None, **case.pop("arguments", {})},
        per_device_train_batch_size=4 // PROCESSES // case.get("gradient_accumulation_steps", 1),
        per_device_retain_batch_size=6 // PROCESSES,
        **{
            "method": "gradient_difference",
            "max_steps": 3,
            "logging_steps": 1,
            "max_grad_norm": 1.0,
            "optim": "sgd",
            "learning_rate": 0.5,
            **deepspeed(stage),
            **case,
        },
    )


def train(folder: str, name: str) -> None:
    trainer = trainer_of(f"{folder}/out", **CASES[name])
    before = {key: p.detach().clone() for key, p in trainer.model.named_parameters()}
    trainer.train()
    step = torch.cat(
        [(p.detach() - before[key]).flatten() for key, p in trainer.model.named_parameters()]
    )
    logged = ("forget_loss", "retain_loss", "skipped_steps")
    logs = [
        {key: row.get(key) for key in logged} for row in trainer.state.log_history if "loss" in row
    ]
    torch.save({"step": step, "logs": logs}, f"{folder}/{name}.{PROCESSES}.{PROCESS}.pt")


def stop(control: TrainerControl) -> None:
    """An action that ends a run after the present step."""
    control.should_training_stop = True


def resumed(folder: str) -> None:
    """Four uninterrupted steps, and the last two of them again after an interruption, with
    stopping rules and an evaluation before."""
    weights = {}
    splits = {"forget": utterances(4, seed=1), "test": utterances(3, seed=3)}
    for name, callbacks, resume in (
        ("straight", [], False),
        ("first", [CallAtStep(2, stop)], False),
        ("resumed", [], True),
    ):
        trainer = trainer_of(
            f"{folder}/{'straight' if name == 'straight' else 'parts'}",
            2,
            optim="adamw_torch",
            learning_rate=1e-3,
            max_steps=4,
            save_strategy="steps",
            save_steps=2,
            method="scrub",
            stop_when="forget_loss >= 99",
            abort_when="test_loss > 99",
            check_steps=2,
            per_device_eval_batch_size=2,
            arguments={"callbacks": callbacks, "eval_dataset": splits},
        )
        before = trainer.evaluate()
        trainer.train(resume)
        after = trainer.evaluate()
        weights[name] = {key: p.detach().clone() for key, p in trainer.model.named_parameters()}
        weights[f"{name} losses"] = [before["eval_forget_loss"], after["eval_forget_loss"]]
    if PROCESS == 0:
        trainer.save_model(f"{folder}/saved")
        torch.save(weights, f"{folder}/resumed.pt")


def main(folder: str, *names: str) -> None:
    for name in names or [*CASES, *["resumed"] * (PROCESSES > 1)]:
        resumed(folder) if name == "resumed" else train(folder, name)


if __name__ == "__main__":
    main(*sys.argv[1:])
