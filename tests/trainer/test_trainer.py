"""UnlearnTrainer's step equals brute force in float64; equal configurations take equal steps."""

import copy
import json
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig
from transformers import (
    Seq2SeqTrainingArguments,
    TrainerCallback,
    WhisperForConditionalGeneration,
    set_seed,
)

from hf_unlearn import UnlearnConfig, UnlearnTrainer
from hf_unlearn.methods import build_method
from hf_unlearn.per_sample.reference import orthograd_gradient, sample_gradient
from hf_unlearn.trainer.checks.compatibility import check_data
from tests.support.helpers import Interrupt
from tests.support.tiny import FORGET, RETAIN, collate, make_trainer, tiny_whisper


def step(model, tmp_path, **options) -> torch.Tensor:
    """The gradient of one step, as SGD(lr=1) has subtracted it from the weights."""
    changed = copy.deepcopy(model)
    make_trainer(changed, tmp_path, **options).train()
    pairs = zip(model.parameters(), changed.parameters())
    return torch.cat(
        [(before - after).flatten() for before, after in pairs if before.requires_grad]
    ).double()


def brute_force(model, alpha, granularity, forget=FORGET, retain=RETAIN) -> torch.Tensor:
    """The same gradient from one backward pass per sample in float64 and the dense matrix A."""
    model = copy.deepcopy(model).double().train()
    parameters = [p for p in model.parameters() if p.requires_grad]

    def gradient(sample):
        batch = collate([{**sample, "input_features": sample["input_features"].double()}])
        return sample_gradient(model, model(**batch).loss, parameters)

    u = [torch.stack(grads).mean(0).flatten() for grads in zip(*map(gradient, forget))]
    rows = [torch.stack(grads).flatten(1) for grads in zip(*map(gradient, retain))]
    if granularity == "model":
        return orthograd_gradient(torch.cat(u), torch.cat(rows, 1), alpha)
    return torch.cat([orthograd_gradient(*pair, alpha) for pair in zip(u, rows)])


def relative(a, b) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("granularity", ["parameter", "model"])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9])
@pytest.mark.parametrize(
    "retain", [RETAIN, RETAIN + RETAIN[:2], RETAIN[:1]], ids=["plain", "duplicates", "k=1"]
)
def test_orthograd_step_is_the_brute_force_step(tmp_path, granularity, alpha, retain):
    model = tiny_whisper()
    expected = brute_force(model, alpha, granularity, retain=retain)
    assert (
        relative(
            step(model, tmp_path, alpha=alpha, granularity=granularity, retain=retain), expected
        )
        < 1e-4
    )


def test_zero_retain_gradients(tmp_path):
    """A retain sample without labels has no loss: it constrains nothing, and does not disturb the
    rest."""
    empty = {**RETAIN[0], "labels": torch.full((3,), -100)}
    got = step(tiny := tiny_whisper(), tmp_path, alpha=0.0, retain=[*RETAIN[1:], empty])
    assert relative(got, brute_force(tiny, 0.0, "parameter", retain=RETAIN[1:])) < 1e-4


class Picked(torch.nn.Module):
    """Its loss is about the positions that a mask picks, of which samples have different numbers
    (Qwen2-Audio)."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)

    def forward(self, x, mask, labels):
        return {"loss": torch.nn.functional.cross_entropy(self.layer(x)[mask], labels[mask])}


class Patched(Picked):
    """The images of its samples come as one sequence of patches (as in Qwen2-VL)."""

    def forward(self, pixel_values, image_grid_thw, labels):
        images = self.layer(pixel_values).tanh().split(image_grid_thw.prod(-1).tolist())
        logits = torch.stack([image.mean(0) for image in images])
        return {"loss": torch.nn.functional.cross_entropy(logits, labels)}


def picked(length: int, n: int = 5) -> dict:
    mask = torch.arange(n) < length
    return {"x": torch.randn(n, 4), "mask": mask, "labels": torch.randint(3, (n,))}


def image_of(patches: int) -> dict:
    return {
        "pixel_values": torch.randn(patches, 4),
        "image_grid_thw": torch.tensor([1, 1, patches]),
        "labels": torch.tensor(patches % 3),
    }


def stacked(samples: list[dict]) -> dict:
    return {
        name: torch.cat([s[name] for s in samples])
        if name == "pixel_values"
        else torch.stack([s[name] for s in samples])
        for name in samples[0]
    }


@pytest.mark.parametrize("lengths", [(3, 2, 4), (4, 4, 4)], ids=["from the first", "late"])
@pytest.mark.parametrize("model, sample", [(Picked, picked), (Patched, image_of)])
def test_samples_in_unequal_shares(tmp_path, model, sample, lengths):
    """Samples that a mask picks unequally are computed one by one, even if the first batches had
    equal shares. Patches are not: image_grid_thw tells whose they are."""
    model, batches = model(), [[sample(n) for n in lengths], [sample(n) for n in (2, 5, 4, 3)]]
    trainer = make_trainer(
        model,
        tmp_path,
        forget=batches[0],
        retain=[sample(n) for n in lengths],
        alpha=0.3,
        max_steps=2,
        collator=stacked,
        # as good as none
        learning_rate=1e-6,
        optimizer=False,
        optim="sgd",
    )
    trainer.next_retain_batch = lambda: stacked(batches[trainer.state.global_step])
    gradients, finish = [], trainer.method.finish

    def note(step):
        gradients.append([p.grad.clone().flatten().double() for p in model.parameters()])
        finish(step)

    trainer.method.finish = note
    trainer.train()
    one_by_one = trainer.samples.one_by_one
    assert one_by_one == (type(model) is Picked) and (one_by_one or not trainer.samples.engine.slow)
    parameters = list(model.parameters())

    def alone(samples):
        return [
            sample_gradient(model, model(**stacked([one]))["loss"], parameters) for one in samples
        ]

    u = [torch.stack(rows).mean(0).flatten() for rows in zip(*alone(batches[0]))]
    for got, batch in zip(gradients, batches):
        for g, mine, rows in zip(got, u, zip(*alone(batch))):
            assert relative(g, orthograd_gradient(mine, torch.stack(rows).flatten(1), 0.3)) < 1e-4


@pytest.mark.parametrize(
    "method", ["orthograd", "gradient_ascent", "gradient_difference", "finetune"]
)
def test_weighted_methods_and_equal_configurations(tmp_path, method):
    """Batch size x accumulation: 8 x 1 = 2 x 4 = 3 x 3 (with a smaller last batch), with and
    without gradient checkpointing."""
    model = tiny_whisper(use_cache=False)
    options = {"method": method, "alpha": 0.3}
    expected = step(model, tmp_path, **options)
    assert expected.norm() > 0
    for changes in (
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
        {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 3},
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
    ):
        assert relative(step(model, tmp_path, **options, **changes), expected) < 1e-5, changes


def test_weighted_methods_are_weighted_sums_of_gradients(tmp_path):
    model = tiny_whisper()
    up, down = (
        step(model, tmp_path, method="gradient_ascent"),
        step(model, tmp_path, method="finetune"),
    )
    difference = step(model, tmp_path, method="gradient_difference", alpha=0.3)
    assert relative(difference, 0.3 * down + 0.7 * up) < 1e-5


def test_a_short_step_changes_no_retain_loss_to_first_order(tmp_path):
    """The purpose of the method: with alpha = 0, a short step changes the forget loss, but not the
    loss of any retain sample."""
    model = tiny_whisper().double()
    forget, retain = (
        [{**s, "input_features": s["input_features"].double()} for s in data]
        for data in (FORGET, RETAIN)
    )
    direction = step(model, tmp_path, alpha=0.0, granularity="model", forget=forget, retain=retain)

    def losses(samples):
        return torch.stack([model(**collate([sample])).loss.detach() for sample in samples])

    before = losses(retain), losses(forget).mean()
    size = 1e-5 / direction.norm()
    with torch.no_grad():
        start = 0
        for p in (p for p in model.parameters() if p.requires_grad):
            p -= size * direction[start : start + p.numel()].view_as(p)
            start += p.numel()
    gained = losses(forget).mean() - before[1]
    assert gained > 0
    assert (losses(retain) - before[0]).abs().max() < 1e-3 * gained


def lora():
    return LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)


def checkpointing(reentrant: bool) -> dict:
    return {
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": reentrant},
    }


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
            broken, tmp_path / "broken", arguments={"callbacks": [Interrupt()]}, **options
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


@pytest.mark.parametrize(
    "options, message",
    [
        ({"retain": None}, "retain_dataset is missing"),
        ({"retain": []}, "retain_dataset is empty"),
        ({"arguments": {"train_dataset": FORGET}}, "alias of forget_dataset"),
        ({"method": "magic"}, "must be one of orthograd, orthograd_mean"),
        ({"alpha": 1.0}, r"alpha is 1.0, but must be in \[0, 1\)"),
        ({"granularity": "layer"}, "must be 'parameter' or 'model'"),
        ({"per_device_retain_batch_size": 0}, "per_device_retain_batch_size is 0"),
        ({"label_smoothing_factor": 0.1}, "averages over the tokens"),
        ({"torch_compile": True}, "torch_compile does not work"),
        (
            {"stop_when": "wer is high", "arguments": {"eval_dataset": {"forget": FORGET}}},
            "cannot read the rule",
        ),
        (
            {"stop_when": "other_wer > 3", "arguments": {"eval_dataset": {"forget": FORGET}}},
            "names no split",
        ),
        ({"stop_when": "forget_wer > 3"}, "to be a dict of splits"),
    ],
)
def test_impossible_settings_are_refused_at_construction(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(tiny_whisper(), tmp_path, **options)


def test_a_compiled_model_is_refused_at_construction(tmp_path):
    with pytest.raises(ValueError, match="as it is before torch.compile"):
        make_trainer(torch.compile(tiny_whisper()), tmp_path)


def test_fewer_retain_samples_than_processes_are_refused(tmp_path):
    args = SimpleNamespace(world_size=2)
    with pytest.raises(ValueError, match="has 1 samples, but there are 2 processes"):
        check_data(
            build_method(UnlearnConfig(str(tmp_path), method="gradient_difference", use_cpu=True)),
            FORGET,
            RETAIN[:1],
            args,
        )


def test_forget_dataset_is_required(tmp_path):
    """To train, not to evaluate."""
    args = UnlearnConfig(str(tmp_path), use_cpu=True)
    trainer = UnlearnTrainer(model=tiny_whisper(), args=args, retain_dataset=RETAIN)
    with pytest.raises(ValueError, match="forget_dataset is missing"):
        trainer.train()
