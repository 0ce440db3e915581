"""The runs that `test_processes.py` compares between one process and two:
`process_cases.py <folder> [case ...]` saves each case's step.

A case lists what differs from the defaults. Two processes get half the batch sizes of one.
"""

import contextlib
import copy
import os
import sys

import numpy as np
import torch
from transformers import set_seed

import hf_unlearn.trainer.samples.exchange
from hf_unlearn.per_sample import SampleMeanLoss
from hf_unlearn.per_sample.losses import weighted_samples
from hf_unlearn.per_sample.rules import convolutions
from hf_unlearn.trainer.batches.seeded import RETAIN, seeded
from tests.support.tiny import checkpointing, make_trainer, tiny_whisper, utterances
from tests.trainer.processes.process_checkpoints import (
    resume_elsewhere,
    resume_in_shards,
    shard_by_accelerate,
)
from tests.trainer.processes.process_models import (
    LORA,
    Later,
    broken,
    place,
    random_layers,
    sharded,
    sharded_bfloat16,
    sharded_lora,
    short,
    slow_later,
    streamed,
    whole,
    with_slow_parameter,
)

PROCESS, PROCESSES = place()
MODEL = {"granularity": "model"}


DRIFT = {"step_control": "drift", "max_drift": 0.01, "max_steps": 2, "retain": 5}


ACCUMULATE = {"forget": 8, "gradient_accumulation_steps": 2}


METRIC = {
    "method": "orthograd_metric",
    "optim": "adamw_torch",
    "max_steps": 2,
    "learning_rate": 1e-2,
    "adam_epsilon": 1e-3,
}


# For each process: the number of places above which the input of a convolution is not written out
# as patches.
USUAL, ALL, SOME = (convolutions.PLACES,) * 2, (0, 0), (0, 1000)


CASES = {
    "parameter": {"model": tiny_whisper},
    "model": {"model": tiny_whisper, **MODEL},
    "gradient_difference": {"method": "gradient_difference"},
    "resharded": {"reshard": True},
    "resharded model": {**MODEL, "reshard": True, "retain": 5},
    "convolutions": {"places": ALL},
    "convolutions of different forms model": {**MODEL, "places": SOME, "retain": 5},
    "sharded convolutions": {"model": sharded, "places": ALL, "retain": 5},
    "unequal retain counts model": {**MODEL, "retain": 5},
    "accumulation clipping": {**ACCUMULATE, **MODEL, "max_grad_norm": 0.01},
    "a last batch that is not full accumulation": {
        "forget": 7,
        "gradient_accumulation_steps": 2,
        "max_steps": 4,
    },
    "drift model": {**DRIFT, **MODEL},
    "earlier samples": {"previous": 3, "retain": 5},
    "earlier samples drift resharded model": {**DRIFT, **MODEL, "previous": 3, "reshard": True},
    "sharded earlier samples model": {"model": sharded, **MODEL, "previous": 3},
    "sharded drift": {**DRIFT, "model": sharded, "forget": 7, "gradient_accumulation_steps": 2},
    "a stream": {"data": streamed, "forget": 13, "batch": 8, "max_steps": 4},
    "an accumulated stream": {
        "data": streamed,
        "forget": 13,
        "batch": 8,
        "gradient_accumulation_steps": 2,
        "max_steps": 2,
    },
    "fewer samples than places": {"forget": 3, "max_steps": 2},
    "checkpointing": checkpointing(False),
    "re-entrant checkpointing": {**checkpointing(True), **ACCUMULATE},
    "random layers model": {"model": random_layers, **MODEL, "retain": 5},
    "random layers re-entrant checkpointing accumulation": {
        "model": random_layers,
        **checkpointing(True),
        **ACCUMULATE,
    },
    "lora model": {"lora": True, **MODEL},
    "lora re-entrant checkpointing accumulation": {
        "lora": True,
        **checkpointing(True),
        **ACCUMULATE,
    },
    "slow": {"model": with_slow_parameter, "max_steps": 2, "retain": 5},
    "slow checkpointing": {"model": with_slow_parameter, **checkpointing(False), "max_steps": 2},
    "slow re-entrant checkpointing model": {
        "model": with_slow_parameter,
        **checkpointing(True),
        **MODEL,
    },
    "optimizer's metric model": {**METRIC, **MODEL, "retain": 5},
    "optimizer's metric resharded": {**METRIC, "reshard": True},
    "masked random transcripts": {"method": "salun", **ACCUMULATE, "max_steps": 2},
    "teacher": {"method": "scrub", "max_steps": 3, "method_kwargs": {"msteps": 1}},
    "null space": {"method": "pgu", "retain": 5},
    "Newton step": {"method": "influence", "retain": 5, "forget": 5},
    "rectified": {"method": "gdr_gma", "retain": 5, "method_kwargs": {"eps": 4.0, "gamma": 1.0}},
    "slow later checkpointing model": {
        "model": slow_later,
        **checkpointing(False),
        **MODEL,
        "max_steps": 2,
        "retain": 5,
    },
    "sharded": {"model": sharded, **ACCUMULATE, "max_grad_norm": 0.01},
    "sharded model": {"model": sharded, **MODEL, "retain": 5, "reshard": True},
    "sharded checkpointing model": {"model": sharded, **MODEL, **checkpointing(False)},
    "sharded re-entrant checkpointing accumulation": {
        "model": sharded,
        **checkpointing(True),
        **ACCUMULATE,
    },
    "sharded gradient_difference": {
        "model": sharded,
        "method": "gradient_difference",
        "forget": 7,
        "max_steps": 2,
    },
    "sharded lora": {"model": sharded_lora},
    "sharded bfloat16": {"model": sharded_bfloat16},
    "sharded broken forget sample": {"model": sharded, "data": broken, "max_steps": 2, "forget": 8},
    "broken forget sample": {"data": broken, "max_steps": 2, "forget": 8},
}


def train(folder: str, name: str) -> None:
    case = {
        "forget": 4,
        "retain": 6,
        "previous": 0,
        "model": short,
        "lora": False,
        "reshard": False,
        "places": USUAL,
        "data": list,
        "batch": 4,
        "optim": "sgd",
        **CASES[name],
    }
    set_seed(0)
    keys = ("forget", "retain", "previous", "model", "lora", "reshard", "places", "data", "batch")
    forget, retain, previous, model, lora, reshard, places, data, batch = map(case.pop, keys)
    convolutions.PLACES = places[PROCESS]
    hf_unlearn.trainer.samples.exchange.LATENCY = -(10**12) if reshard else 2**14
    network = model()
    adapter = LORA if lora else None
    trainer = make_trainer(
        network,
        f"{folder}/out",
        forget=data(utterances(forget, seed=1)),
        retain=utterances(retain, seed=2),
        optimizer=False,
        arguments={
            "peft_config": adapter,
            "callbacks": [Later()],
            "previous_forget_dataset": utterances(previous, seed=3) or None,
        },
        per_device_train_batch_size=batch // PROCESSES,
        per_device_retain_batch_size=6 // PROCESSES,
        per_device_previous_batch_size=4 // PROCESSES,
        **case,
    )
    before = [whole(p.detach()).clone() for p in trainer.model.parameters()]
    trainer.train()
    step = torch.cat(
        [(a - whole(b.detach())).flatten() for a, b in zip(before, trainer.model.parameters())]
    )
    logged = (
        "forget_loss",
        "retain_loss",
        "previous_loss",
        "rank",
        "kept",
        "skipped_steps",
        "step_factor",
    )
    logs = [
        {key: row.get(key) for key in logged} for row in trainer.state.log_history if "loss" in row
    ]
    torch.save({"step": step, "logs": logs}, f"{folder}/{name}.{PROCESSES}.{PROCESS}.pt")


def evaluate(folder: str) -> None:
    """Seven samples in batches of two per process, so that a data loader repeats one."""

    def metrics(prediction):
        tokens = np.where(prediction.predictions < 4, 0, prediction.predictions)
        sums = sorted((tokens * np.arange(1, tokens.shape[1] + 1)).sum(1).tolist())
        return {
            "samples": len(tokens),
            "checksum": sums,
            "labels": int(prediction.label_ids.clip(0).sum()),
        }

    set_seed(0)
    trainer = make_trainer(
        tiny_whisper(init_std=0.5),
        f"{folder}/out",
        forget=utterances(4, seed=1),
        method="gradient_difference",
        per_device_train_batch_size=4 // PROCESSES,
        per_device_retain_batch_size=4 // PROCESSES,
        per_device_eval_batch_size=2,
        predict_with_generate=True,
        generation_max_length=8,
        eval_strategy="steps",
        eval_steps=1,
        max_steps=2,
        learning_rate=1e-3,
        optimizer=False,
        arguments={"eval_dataset": {"test": utterances(7, seed=3)}, "compute_metrics": metrics},
    )
    trainer.train()
    rows = [
        {key: row[key] for key in row if key.startswith("eval_test") and not is_time(key)}
        for row in trainer.state.log_history
        if "eval_test_samples" in row
    ]
    torch.save(rows, f"{folder}/evaluation.{PROCESSES}.{PROCESS}.pt")


def is_time(key: str) -> bool:
    return "_per_second" in key or "runtime" in key


def keep_randomness(folder: str) -> None:
    """A step with dropout, and the gradients of this process's retain samples, with and without the
    dropout that was drawn in the step."""
    set_seed(0)
    model, forget, retain = tiny_whisper(dropout=0.3), utterances(4, seed=1), utterances(6, seed=2)
    start = copy.deepcopy(model)
    trainer = make_trainer(
        model,
        f"{folder}/out",
        forget=forget,
        retain=retain,
        optimizer=False,
        optim="sgd",
        alpha=0.0,
        freeze_randomness=False,
        per_device_train_batch_size=2,
        per_device_retain_batch_size=3,
        **MODEL,
    )
    trainer.train()
    pairs = zip(start.parameters(), trainer.model.parameters())
    step = torch.cat([(a - b).detach().flatten() for a, b in pairs if b.requires_grad])
    batch, k = trainer.training_run.step_runner.retain_batches.batch, 3
    parameters = [p for p in start.parameters() if p.requires_grad]
    rows = {True: [], False: []}
    for drawn in rows:
        for n in range(k):
            of_one = weighted_samples(torch.eye(k)[n])
            with seeded(trainer.args.seed, RETAIN, 0, PROCESS * k), of_one, SampleMeanLoss(k):
                loss = start.train(drawn)(**batch).loss
            gradients = torch.autograd.grad(loss, parameters)
            rows[drawn].append(torch.cat([gradient.flatten() for gradient in gradients]))
    torch.save({"step": step, "rows": rows}, f"{folder}/randomness.{PROCESS}.pt")


if __name__ == "__main__":
    target, *names = sys.argv[1:]
    if PROCESSES > 1:
        torch.distributed.init_process_group("gloo")
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        for case_name in names or CASES:
            train(target, case_name)
        if not names:
            evaluate(target)
            if PROCESSES > 1:
                keep_randomness(target)
                resume_in_shards(target)
            for in_parts in (False, True):
                resume_elsewhere(target, in_parts)
            shard_by_accelerate(target)
    if PROCESSES > 1:
        torch.distributed.destroy_process_group()
