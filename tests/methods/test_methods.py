"""Every method takes steps on images and on speech. Equal configurations give equal steps, and a
run can resume."""

import copy
import json
import re
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from torch import nn
from transformers import ViTForImageClassification

from hf_unlearn import METHODS, UnlearnConfig
from hf_unlearn.experiments import parse
from hf_unlearn.methods import Method, build_method, method_settings
from tests.support.callbacks import CallAtStep, interrupt
from tests.support.tiny import (
    FORGET,
    RETAIN,
    collate,
    collate_images,
    images,
    make_trainer,
    tiny_vit,
    tiny_whisper,
)

CLASSIFICATION = ("duck", "boundary_shrink")
SPEECH = [name for name in METHODS if name not in CLASSIFICATION]


def small_whisper():
    return tiny_whisper(encoder_layers=1, decoder_layers=1, use_cache=False)


TASKS = {
    "speech": (small_whisper, FORGET, RETAIN, collate),
    "images": (tiny_vit, images(8, seed=1), images(6, seed=2), collate_images),
}
# gdr_gma forgets only while the retain loss is below eps. That of an untrained model is higher than
# the published eps.
KEYWORDS = {"gdr_gma": {"eps": 4.0, "gamma": 1.0}, "scrub": {"msteps": 1}}


def trained(model, tmp_path, task: str, method: str, resume=None, **options):
    """The trainer of a copy of the model, after a small step of SGD (two where the first has no
    effect)."""
    _, forget, retain, collator = TASKS[task]
    changed = copy.deepcopy(model)
    # In the first step the student equals its teacher, so that the divergence has no gradient.
    steps = 2 if method in ("scrub", "bad_teacher") else 1
    options = {
        "max_steps": steps,
        "learning_rate": 0.1,
        "optim": "sgd",
        "method_kwargs": KEYWORDS.get(method),
        **options,
    }
    trainer = make_trainer(
        changed,
        tmp_path,
        forget=forget,
        retain=retain,
        collator=collator,
        optimizer=False,
        method=method,
        **options,
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def weights(model) -> torch.Tensor:
    return torch.cat([p.detach().double().flatten() for p in model.parameters()])


@pytest.mark.parametrize(
    ("task", "method"),
    [("images", name) for name in METHODS] + [("speech", name) for name in SPEECH],
)
def test_every_method_takes_steps_that_do_not_depend_on_batches(tmp_path, task, method):
    """Batch 8 x 1 and 2 x 4 change the weights alike and log the same finite losses."""
    model = TASKS[task][0]()
    whole = trained(model, tmp_path, task, method)
    parts = trained(
        model, tmp_path, task, method, per_device_train_batch_size=2, gradient_accumulation_steps=4
    )
    step, same = (weights(trainer.model) - weights(model) for trainer in (whole, parts))
    assert step.norm() > 0 and (step - same).norm() <= 1e-4 * step.norm()
    rows = [
        [row for row in trainer.state.log_history if "loss" in row] for trainer in (whole, parts)
    ]
    for row, other in zip(*rows, strict=True):
        losses = {key: value for key, value in row.items() if key.endswith("loss")}
        assert losses and all(torch.isfinite(torch.tensor(value)) for value in losses.values())
        assert other == {
            **other,
            **{key: pytest.approx(value, rel=1e-3, abs=1e-6) for key, value in losses.items()},
        }


@pytest.mark.parametrize("method", ["scrub", "bad_teacher", "salun", "duck"])
def test_a_resumed_run_prepares_from_the_weights_at_the_start(tmp_path, method):
    """A resumed run equals the uninterrupted one bit for bit, even if it is given other weights."""
    model = tiny_vit()
    options = {
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "save_strategy": "steps",
        "save_steps": 2,
        "optim": "adamw_torch",
        "learning_rate": 1e-2,
    }
    straight = trained(model, tmp_path / "straight", "images", method, **options)
    with pytest.raises(KeyboardInterrupt):
        trained(
            model,
            tmp_path / "broken",
            "images",
            method,
            arguments={"callbacks": [CallAtStep(3, interrupt)]},
            **options,
        )
    resumed = trained(tiny_vit(), tmp_path / "broken", "images", method, resume=True, **options)
    assert torch.equal(weights(resumed.model), weights(straight.model))


def test_the_best_checkpoint_is_restored(tmp_path):
    """The layers of the saved file have other names than those of the model."""
    options = {
        "max_steps": 3,
        "save_strategy": "steps",
        "save_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "load_best_model_at_end": True,
        "arguments": {"eval_dataset": images(4)},
    }
    # Ascent only makes the model worse, so the first checkpoint is the best.
    trainer = trained(tiny_vit(), tmp_path, "images", "gradient_ascent", **options)
    saved = ViTForImageClassification.from_pretrained(tmp_path / "checkpoint-1")
    assert torch.equal(weights(trainer.model), weights(saved))


def test_a_checkpoint_of_another_method_is_refused(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    trained(tiny_vit(), tmp_path, "images", "gradient_difference", **options)
    with pytest.raises(ValueError, match="no complete checkpoint .* that this run could resume"):
        trained(tiny_vit(), tmp_path, "images", "scrub", resume=True, **options)


def test_the_initial_weights_are_saved_where_trainer_uploads_nothing(tmp_path):
    trained(tiny_vit(), tmp_path, "images", "scrub")
    assert [path.name for path in tmp_path.glob("*start*")] == ["_start.safetensors"]


@pytest.mark.parametrize(
    "method", ["npo", "salun", "pgu", "orthograd_metric", "influence", "l1_sparse"]
)
def test_adapters_alone_are_trained(tmp_path, method):
    adapter = LoraConfig(r=2, target_modules=["q_proj", "query"], init_lora_weights=False)
    trainer = make_trainer(
        tiny_vit(),
        tmp_path,
        forget=images(4),
        retain=images(4, seed=2),
        collator=collate_images,
        optimizer=False,
        method=method,
        max_steps=2,
        arguments={"peft_config": adapter},
    )
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    changed = [
        name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])
    ]
    assert changed and all("lora_" in name for name in changed)


@pytest.mark.parametrize("method", ["npo", "duck", "boundary_shrink"])
def test_bfloat16_is_the_plain_step_within_its_error(tmp_path, method):
    model = tiny_vit()
    plain, half = (trained(model, tmp_path, "images", method, bf16=bf16) for bf16 in (False, True))
    step, other = (weights(trainer.model) - weights(model) for trainer in (plain, half))
    assert (step - other).norm() <= 5e-2 * step.norm()
    assert not torch.equal(step, other)


@pytest.mark.parametrize("method", CLASSIFICATION)
def test_methods_for_classes_refuse_speech_at_construction(tmp_path, method):
    with pytest.raises(ValueError, match="is for classification"):
        make_trainer(tiny_whisper(), tmp_path, method=method)


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        ("retrain", None, "gold: train"),
        ("magic", None, "must be one of orthograd"),
        (
            "scrub",
            {"temprature": 2},
            "temprature, but method='scrub' takes ce_weight, kl_weight, temperature, msteps",
        ),
        ("npo", {"alpha": 0.2}, "method_kwargs has alpha, .* are fields of their own"),
        ("npo", {"beta": 0}, "beta is 0, but must be positive"),
        ("finetune", {"beta": 1}, "takes none"),
        ("salun", {"sparsity": 1}, "sparsity is 1"),
        ("pgu", {"variance": 1.5}, "variance is 1.5"),
        ("npo", "beta: 1", "must be a dict, written as JSON"),
        (Method(), {"beta": 1}, "is for a method that is given by name"),
    ],
)
def test_mistaken_methods_are_refused(tmp_path, method, given, message):
    with pytest.raises(ValueError, match=message):
        build_method(UnlearnConfig(str(tmp_path), method=method, method_kwargs=given, use_cpu=True))


def test_keywords_come_from_yaml_and_command_line(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(
        f"output_dir: {tmp_path}\nmethod: npo\nmethod_kwargs: {{beta: 0.5}}\nuse_cpu: true\n"
    )
    for words, beta in (([], 0.5), (["--method_kwargs", json.dumps({"beta": 0.25})], 0.25)):
        (args,) = parse((UnlearnConfig,), [str(file), *words])
        assert build_method(args).beta == beta
        json.dumps(args.to_dict())


def test_settings_are_what_the_method_is_made_with(tmp_path):
    def settings(method, **options):
        return method_settings(UnlearnConfig(str(tmp_path), method=method, use_cpu=True, **options))

    assert settings("scrub", alpha=0.9, method_kwargs={"msteps": 1}) == {
        "ce_weight": 0.99,
        "kl_weight": 0.001,
        "temperature": 4.0,
        "msteps": 1,
    }
    assert (
        settings("npo", alpha=0.9) == {"alpha": 0.9, "beta": 0.1}
        and settings("gradient_ascent", alpha=0.9) == {}
    )
    instance = METHODS["scrub"](temperature=2.0)
    assert settings(instance) == settings("scrub", method_kwargs={"temperature": 2.0})
    # Without the address in memory, which differs from run to run.
    assert str(instance) == "Scrub"


def test_the_page_on_methods_has_one_row_for_each():
    page = Path(__file__).parents[2] / "docs" / "methods.md"
    first_column = re.findall(r"^\| `(\w+)` \|", page.read_text(), re.MULTILINE)
    assert first_column == ["method", *METHODS]


def test_broken_data_are_named_before_the_first_step(tmp_path):
    forget = images(4)
    forget[2]["pixel_values"][0, 0, 0] = torch.nan
    trainer = make_trainer(
        tiny_vit(),
        tmp_path,
        forget=forget,
        retain=images(3),
        collator=collate_images,
        method="salun",
    )
    with pytest.raises(ValueError, match="forget sample 2 is not finite"):
        trainer.train()


class Net(nn.Module):
    """A classifier that is not of transformers."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward(self, pixel_values, labels=None):
        logits = self.head(self.body(pixel_values).relu().mean((2, 3)))
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


@pytest.mark.parametrize("method", ["scrub", "salun", "pgu", "duck", "boundary_shrink"])
def test_methods_change_the_weights_of_plain_modules(tmp_path, method):
    model = Net()
    trainer = trained(model, tmp_path, "images", method)
    assert (weights(trainer.model) - weights(model)).norm() > 0


def test_a_random_teacher_needs_a_model_of_transformers(tmp_path):
    with pytest.raises(ValueError, match="only a model of transformers can be made from"):
        trained(Net(), tmp_path, "images", "bad_teacher")
