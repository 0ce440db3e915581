"""Runs in one process or two that are saved, resumed, or set up by accelerate."""

import itertools
import os

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from transformers import set_seed

from hf_unlearn import UnlearnConfig, UnlearnTrainer
from hf_unlearn.trainer.checkpoints.state_dicts import whole_state_dict
from tests.support.tiny import collate, make_trainer, tiny_whisper, utterances
from tests.trainer.processes.process_models import SHORT, in_shards, place, short


def shard_by_accelerate(folder: str) -> None:
    """FSDP2 as `accelerate launch` sets it up. The model is evaluated before it is trained, as
    recipes do, and saved whole.

    accelerate does not enable FSDP on CPUs, so it is told that these are GPUs. A single process has
    nothing to shard.
    """
    process, processes = place()
    plugin = {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    }
    os.environ |= plugin if processes > 1 else {}
    set_seed(0)
    model = short()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    arguments = UnlearnConfig(
        f"{folder}/accelerate",
        max_steps=2,
        gradient_accumulation_steps=2,
        learning_rate=1e-2,
        optim="sgd",
        lr_scheduler_type="constant",
        per_device_train_batch_size=2 // processes,
        per_device_retain_batch_size=6 // processes,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        predict_with_generate=True,
        generation_max_length=8,
    )
    assert arguments.device.type == "cpu"
    if processes > 1:
        PartialState().distributed_type = DistributedType.MULTI_GPU
    data = {
        "forget_dataset": utterances(4, seed=1),
        "retain_dataset": utterances(6, seed=2),
        "data_collator": collate,
    }
    trainer = UnlearnTrainer(
        model=model, args=arguments, eval_dataset={"test": utterances(5, seed=3)}, **data
    )
    assert trainer.accelerator.is_fsdp2 == (processes > 1)
    losses = [trainer.evaluate()["eval_test_loss"]]
    trainer.train()
    losses.append(trainer.evaluate()["eval_test_loss"])
    trainer.save_model()
    for name in plugin:
        os.environ.pop(name, None)
    if process == 0:
        saved = tiny_whisper().from_pretrained(f"{folder}/accelerate")
        step = torch.cat(
            [(before[name] - p.detach()).flatten() for name, p in saved.named_parameters()]
        )
        torch.save({"step": step, "losses": losses}, f"{folder}/accelerate.{processes}.pt")


def resume_in_shards(folder: str) -> None:
    """Three uninterrupted steps, and two steps resumed from the first. The last checkpoint is read
    by from_pretrained."""

    process, _ = place()

    def trained(name: str, checkpoint: str | None = None):
        set_seed(0)
        evaluations = itertools.count(1)
        trainer = make_trainer(
            in_shards(tiny_whisper(**SHORT, dropout=0.1)),
            f"{folder}/{name}",
            optimizer=False,
            optim="adamw_torch",
            learning_rate=1e-3,
            max_steps=3,
            per_device_train_batch_size=2,
            per_device_retain_batch_size=2,
            save_strategy="steps",
            save_steps=1,
            eval_strategy="steps",
            eval_steps=1,
            predict_with_generate=True,
            generation_max_length=8,
            # aborts at the last step, and restores the original model
            abort_when="test_evaluations >= 2",
            check_steps=3,
            arguments={
                "eval_dataset": {"test": utterances(5, seed=3)},
                "compute_metrics": lambda _: {"evaluations": next(evaluations)},
            },
        )
        original = whole_state_dict(trainer.model)
        trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_model()
        restored = whole_state_dict(trainer.model)
        losses = [
            row["eval_test_loss"] for row in trainer.state.log_history if "eval_test_loss" in row
        ]
        if process == 0:
            assert all(torch.equal(restored[key], original[key]) for key in original)
            kept = tiny_whisper().from_pretrained(f"{folder}/{name}").state_dict()
            assert all(torch.equal(kept[key], original[key]) for key in original)
        return losses

    def weights(name: str) -> dict:
        return tiny_whisper().from_pretrained(f"{folder}/{name}/checkpoint-2").state_dict()

    losses = [trained("straight"), trained("resumed", f"{folder}/straight/checkpoint-1")]
    if process == 0:
        torch.save(
            {"weights": [weights("straight"), weights("resumed")], "losses": losses},
            f"{folder}/resumed.pt",
        )


def resume_elsewhere(folder: str, sharded: bool) -> None:
    """Two processes run without interruption; one process resumes from their first checkpoint, with
    twice the batch sizes."""
    _, processes = place()
    name = f"{folder}/elsewhere{'_sharded' if sharded else ''}"
    set_seed(0)
    trainer = make_trainer(
        in_shards(tiny_whisper(**SHORT)) if sharded else tiny_whisper(**SHORT),
        name if processes > 1 else f"{name}_resumed",
        optimizer=False,
        optim="adamw_torch",
        learning_rate=1e-3,
        max_steps=3,
        per_device_train_batch_size=4 // processes,
        per_device_retain_batch_size=6 // processes,
        save_strategy="steps",
        save_steps=1,
    )
    trainer.train(resume_from_checkpoint=None if processes > 1 else f"{name}/checkpoint-1")
    trainer.save_model()
