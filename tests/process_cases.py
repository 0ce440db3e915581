"""The runs that `test_processes.py` compares between one process and two:
`process_cases.py <folder> [case ...]` saves each case's step.

A case lists what differs from the defaults. Two processes get half the batch sizes of one.
"""

import contextlib
import copy
import itertools
import os
import sys
import types

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from peft import LoraConfig, get_peft_model
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, set_seed
from transformers.models.whisper.modeling_whisper import WhisperDecoderLayer, WhisperEncoderLayer

import hf_unlearn.trainer.samples.exchange
from hf_unlearn import UnlearnConfig, UnlearnTrainer
from hf_unlearn.per_sample import SampleMeanLoss
from hf_unlearn.per_sample.losses import weighted_samples
from hf_unlearn.per_sample.rules import layers
from hf_unlearn.trainer.batches.seeded import RETAIN, seeded
from hf_unlearn.trainer.checkpoints.state_dicts import whole_state_dict
from tests.tiny import collate, make_trainer, tiny_whisper, utterances

PROCESSES, PROCESS = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))


class Later(TrainerCallback):
    """Notes whether the last process has taken its first step."""

    now = False

    def on_step_begin(self, args, state, control, **kwargs):
        Later.now = state.global_step > 0 and PROCESS == PROCESSES - 1


def slow_later():
    return with_slow_parameter(at_once=False)


def with_slow_parameter(at_once: bool = True):
    """A bias that no rule covers, because it meets the samples in a list of tensors.

    at_once: from the first step on; else on the last process only, after its first step.
    """

    def forward(self, x):
        y = torch.nn.functional.layer_norm(x, self.normalized_shape)
        if not at_once and not Later.now:
            return y * self.weight + self.bias
        return y * self.weight + torch.stack([self.bias, (y * 0).sum((0, 1))]).sum(0)

    model = short()
    norm = model.model.encoder.layer_norm
    norm.forward = types.MethodType(forward, norm)
    return model


def short():
    """One layer of each kind is enough for most cases."""
    return tiny_whisper(**SHORT)


def random_layers():
    return tiny_whisper(dropout=0.3, encoder_layerdrop=0.5, decoder_layerdrop=0.5)


def in_shards(model, **options):
    """FSDP2 set up by hand: a group for each layer, and everything else (with Whisper's tied
    weights) in the outermost one."""
    if PROCESSES > 1:
        for layer in [
            m for m in model.modules() if isinstance(m, (WhisperEncoderLayer, WhisperDecoderLayer))
        ]:
            fully_shard(layer, **options)
        fully_shard(model, **options)
    return model


def sharded():
    """The lines of some parameters do not divide evenly over the processes, or there is only one,
    so that one process has none."""
    return in_shards(tiny_whisper(**SHORT, vocab_size=61, encoder_ffn_dim=33, decoder_ffn_dim=1))


def sharded_bfloat16():
    return in_shards(short(), mp_policy=MixedPrecisionPolicy(torch.bfloat16, torch.float32))


def sharded_lora():
    return in_shards(get_peft_model(short(), LORA))


def whole(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def broken(samples):
    samples[1]["input_features"][0, 0] = torch.nan
    return samples


def checkpointing(reentrant: bool) -> dict:
    return {
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": reentrant},
    }


def streamed(samples):
    """An iterable dataset, whose labels have one length because accelerate concatenates the batches
    of all processes."""

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield from ({**sample, "labels": sample["labels"][:2]} for sample in samples)

    return Stream()


LORA = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
SHORT = {"encoder_layers": 1, "decoder_layers": 1}
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
USUAL, ALL, SOME = (layers.PLACES,) * 2, (0, 0), (0, 1000)
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
    layers.PLACES = places[PROCESS]
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
    batch, k = trainer.step_runner.retain_batches.batch, 3
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


def shard_by_accelerate(folder: str) -> None:
    """FSDP2 as `accelerate launch` sets it up. The model is evaluated before it is trained, as
    recipes do, and saved whole.

    accelerate does not enable FSDP on CPUs, so it is told that these are GPUs. A single process has
    nothing to shard.
    """
    plugin = {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    }
    os.environ |= plugin if PROCESSES > 1 else {}
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
        per_device_train_batch_size=2 // PROCESSES,
        per_device_retain_batch_size=6 // PROCESSES,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        predict_with_generate=True,
        generation_max_length=8,
    )
    assert arguments.device.type == "cpu"
    if PROCESSES > 1:
        PartialState().distributed_type = DistributedType.MULTI_GPU
    data = {
        "forget_dataset": utterances(4, seed=1),
        "retain_dataset": utterances(6, seed=2),
        "data_collator": collate,
    }
    trainer = UnlearnTrainer(
        model=model, args=arguments, eval_dataset={"test": utterances(5, seed=3)}, **data
    )
    assert trainer.accelerator.is_fsdp2 == (PROCESSES > 1)
    losses = [trainer.evaluate()["eval_test_loss"]]
    trainer.train()
    losses.append(trainer.evaluate()["eval_test_loss"])
    trainer.save_model()
    for name in plugin:
        os.environ.pop(name, None)
    if PROCESS == 0:
        saved = tiny_whisper().from_pretrained(f"{folder}/accelerate")
        step = torch.cat(
            [(before[name] - p.detach()).flatten() for name, p in saved.named_parameters()]
        )
        torch.save({"step": step, "losses": losses}, f"{folder}/accelerate.{PROCESSES}.pt")


def resume_in_shards(folder: str) -> None:
    """Three uninterrupted steps, and two steps resumed from the first. The last checkpoint is read
    by from_pretrained."""

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
        if PROCESS == 0:
            assert all(torch.equal(restored[key], original[key]) for key in original)
            kept = tiny_whisper().from_pretrained(f"{folder}/{name}").state_dict()
            assert all(torch.equal(kept[key], original[key]) for key in original)
        return losses

    def weights(name: str) -> dict:
        return tiny_whisper().from_pretrained(f"{folder}/{name}/checkpoint-2").state_dict()

    losses = [trained("straight"), trained("resumed", f"{folder}/straight/checkpoint-1")]
    if PROCESS == 0:
        torch.save(
            {"weights": [weights("straight"), weights("resumed")], "losses": losses},
            f"{folder}/resumed.pt",
        )


def resume_elsewhere(folder: str, sharded: bool) -> None:
    """Two processes run without interruption; one process resumes from their first checkpoint, with
    twice the batch sizes."""
    name = f"{folder}/elsewhere{'_sharded' if sharded else ''}"
    set_seed(0)
    trainer = make_trainer(
        in_shards(tiny_whisper(**SHORT)) if sharded else tiny_whisper(**SHORT),
        name if PROCESSES > 1 else f"{name}_resumed",
        optimizer=False,
        optim="adamw_torch",
        learning_rate=1e-3,
        max_steps=3,
        per_device_train_batch_size=4 // PROCESSES,
        per_device_retain_batch_size=6 // PROCESSES,
        save_strategy="steps",
        save_steps=1,
    )
    trainer.train(resume_from_checkpoint=None if PROCESSES > 1 else f"{name}/checkpoint-1")
    trainer.save_model()


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
