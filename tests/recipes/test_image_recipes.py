"""Runs the image recipes through their command lines, on small folders of images and tiny
models."""

import csv
import importlib
import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    pipeline,
)

from hf_unlearn import UnlearnConfig, UnlearnTrainer
from hf_unlearn.experiments.images.recipe import load_processor
from hf_unlearn.metrics import ATTACKS
from tests.support.forks import run_script
from tests.support.helpers import ROOT, assert_drawn

pytestmark = pytest.mark.slow

ROWS = [
    row
    for row in csv.DictReader((Path(__file__).parent / "recipes.csv").open())
    if row["task"] != "speakers"
]
CLASSES = ["cat", "dog", "frog"]
TINY = (
    "--train_steps 2 --train_batch_size 4 --max_steps 2 --retain_size 6 "
    "--per_device_train_batch_size 4 --per_device_retain_batch_size 4 --max_eval_samples 6 "
    "--check_steps 1 --relearn_steps 2 --disable_tqdm true --use_cpu true --report_to none "
    "--dataloader_num_workers 0 "
    # the rules of the configurations hold for models that have learned nothing
    "--stop_when forget_loss>=1000 --abort_when test_loss>1000"
).split()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """<split>/<class>/<number>.png with one colour for each class; some are grey or transparent."""
    folder, rng = tmp_path_factory.mktemp("images") / "pictures", np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 3)):
        for number, name in enumerate(CLASSES):
            (folder / split / name).mkdir(parents=True)
            for take in range(count):
                values = rng.integers(0, 80, (16, 16, 3))
                values[..., number] += 150
                picture = PIL.Image.fromarray(values.astype(np.uint8))
                picture = picture.convert({0: "L", 1: "RGBA"}.get(take, "RGB"))
                picture.save(folder / split / name / f"{take}.png")
    return folder


@pytest.fixture
def digit_images(tmp_path) -> Path:
    # the recipe writes them
    return tmp_path / "digits"


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory) -> dict[str, Path]:
    """A base model whose head has other labels, one that fits the pictures, and timm's folder."""
    folder = tmp_path_factory.mktemp("models")
    processor = ViTImageProcessor(size={"height": 16, "width": 16})
    config = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    vit = ViTForImageClassification(ViTConfig(image_size=16, patch_size=8, num_labels=5, **config))
    labels = {
        "id2label": dict(enumerate(CLASSES)),
        "label2id": {name: label for label, name in enumerate(CLASSES)},
    }
    resnet = ResNetForImageClassification(
        ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", **labels
        )
    )
    for name, model in (("TINY_VIT", vit), ("TINY_RESNET", resnet)):
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    return {
        "TINY_VIT": folder / "TINY_VIT",
        "TINY_RESNET": folder / "TINY_RESNET",
        "TINY_TIMM": folder / "TINY_TIMM",
    }


@pytest.fixture(scope="session")
def tiny_timm(tiny_models) -> None:
    """Saves a timm model in the form of transformers."""
    pytest.importorskip("timm", reason="needs timm and torchvision", exc_type=ImportError)
    config = TimmWrapperConfig(architecture="test_resnet", id2label=dict(enumerate(CLASSES)))
    config.pretrained_cfg = {
        "input_size": [3, 16, 16],
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "crop_pct": 0.9,
    }
    TimmWrapperForImageClassification(config).save_pretrained(tiny_models["TINY_TIMM"])


@pytest.mark.parametrize("row", ROWS, ids=[row["name"] for row in ROWS])
def test_a_recipe_runs_and_leaves_all_it_promises(row, request, tiny_models, tmp_path):
    data, out = request.getfixturevalue(row["data"]), tmp_path / "out"
    if "TINY_TIMM" in row["flags"]:
        request.getfixturevalue("tiny_timm")
    flags = [tiny_models.get(flag, flag) for flag in row["flags"].split()]
    flags = [row["script"], row["config"], *TINY, *flags, "--dataset", data, "--output_dir", out]
    shown = run_script(*flags, processes=2 if "two_processes" in row["name"] else 1).stdout

    results = json.loads((out / "results.json").read_text())
    splits = {"forget", "retain", "test"} | ({"forget_test"} if row["task"] == "classes" else set())
    measured = ["original", "unlearned"] + ([] if results["retrained"] is None else ["retrained"])
    assert results["task"] == row["task"] and len(measured) == (
        2 if "--gold none" in row["flags"] or "resnet" in row["script"] else 3
    )
    for model in measured:
        assert set(results[model]) == set(results["per_class"][model]) == splits
        shadows = "--shadow_models" in row["flags"]
        assert set(results["attacks"][model]) == {
            name for name in ATTACKS if shadows or not name.startswith("lira")
        }
    if "retrained" in measured:
        expected = results["unlearned"]["test"]["loss"] - results["retrained"]["test"]["loss"]
        assert results["gap"]["test"]["loss"] == pytest.approx(expected)
    assert {"uis", "aus"} == set(results["scores"]["unlearned"])
    assert shown.count("Accuracy (%)") == 1 and "svc_modified_entropy" in shown and "uis" in shown
    for name in ("forgetting.png", "misread.png"):
        assert_drawn(out / name)
    card = (out / "README.md").read_text()
    assert (
        "pipeline_tag: image-classification" in card
        and ("4 images" if row["task"] == "samples" else "1 class") in card
    )
    assert_classifies(out, next(data.rglob("*.png")), results["data"]["classes"]["retain"])


def assert_classifies(folder: Path, image: Path, classes: list[str]) -> None:
    """Plain `from_pretrained` (of peft's adapter too) and the pipeline take what was saved."""
    model, processor = (
        AutoModelForImageClassification.from_pretrained(folder),
        AutoImageProcessor.from_pretrained(folder),
    )
    answers = pipeline("image-classification", model=model, image_processor=processor)(
        PIL.Image.open(image).convert("RGB")
    )
    assert (
        set(classes) <= set(model.config.label2id) and answers[0]["label"] in model.config.label2id
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--forget_classes", "cot"],
            "unknown class 'cot' in the training split, which has 3 classes: 'cat', ",
        ),
        (
            ["--forget_classes", "cat", "--retain_classes", "cat", "dog"],
            "the retain set holds the forgotten class 'cat'",
        ),
    ],
    ids=["class", "retain"],
)
def test_a_mistake_is_answered_in_one_line(pictures, tiny_models, flags, message, tmp_path):
    recipe = ROOT / "recipes" / "resnet_imagenet"
    flags = [
        "--dataset",
        pictures,
        "--train_split",
        "train",
        "--model",
        tiny_models["TINY_VIT"],
        *flags,
    ]
    flags += ["--output_dir", tmp_path / "out"]
    done = run_script(recipe / "unlearn.py", recipe / "resnet18.yaml", *TINY, *flags, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert message in done.stderr.strip().splitlines()[-1]


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="torchvision is there")
def test_a_model_of_timm_without_torchvision_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(
        '{"architecture": "resnet18", "num_classes": 3, "pretrained_cfg": {}}'
    )
    with pytest.raises(
        ValueError,
        match="is a model of timm, which needs .*torchvision: pip install timm torchvision",
    ):
        load_processor(str(tmp_path))


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "recipes" / "digits")
    return importlib.import_module("plain_resnet")


class TestPlainModule:
    """A ResNet that is not a transformers model, on real digits."""

    def test_a_class_is_forgotten_and_the_others_are_kept(self, script):
        before, *rows = script.forget_class(
            3, 0, 256, max_steps=60, per_device_retain_batch_size=64, learning_rate=1e-3
        )
        assert before["forget"] > 99
        assert rows[-1]["forget"] <= 10 and rows[-1]["test"] >= 95 and rows[-1]["retain"] >= 98

    @pytest.mark.parametrize("frozen", [True, False])
    def test_running_statistics_stay_unless_told_otherwise(self, script, frozen):
        model, samples = (
            script.ResNet(4),
            script.as_samples(torch.randn(8, 1, 8, 8), torch.arange(8)),
        )
        args = UnlearnConfig(
            output_dir="unused",
            method="gradient_difference",
            freeze_batch_norm=frozen,
            max_steps=1,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        before = model.stem[1].running_mean.clone()
        forget, retain = samples[:4], samples[4:]
        UnlearnTrainer(model, args, forget_dataset=forget, retain_dataset=retain).train()
        assert torch.equal(model.stem[1].running_mean, before) == frozen

    def test_per_sample_methods_refuse_layers_in_which_samples_interact(self, script):
        args = UnlearnConfig(
            output_dir="unused", freeze_batch_norm=False, use_cpu=True, report_to="none"
        )
        samples = script.as_samples(torch.randn(2, 1, 8, 8), torch.arange(2))
        with pytest.raises(
            ValueError, match="freeze_batch_norm=False does not work with method='orthograd'"
        ):
            UnlearnTrainer(
                script.ResNet(4), args, forget_dataset=samples[:1], retain_dataset=samples[1:]
            )
