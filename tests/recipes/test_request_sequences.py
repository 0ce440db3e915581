"""Requests one after another in the same folder, with whole weights and adapters; and runs without
a step."""

import json
from pathlib import Path

import pytest
from peft import LoraConfig

from hf_unlearn import UnlearnConfig
from hf_unlearn.data.images import ImageArguments
from hf_unlearn.experiments import unlearn
from hf_unlearn.experiments.images.recipe import ImageRecipe, ImageRecipeArguments
from hf_unlearn.experiments.models import training
from hf_unlearn.experiments.requests.stacking import check_stacking
from hf_unlearn.experiments.running.measurements import measure
from hf_unlearn.experiments.verification.verify import verify_by_repetition
from hf_unlearn.report.file_names import LEDGER
from hf_unlearn.report.ledger import read_ledger
from hf_unlearn.report.weights import weights_digest
from tests.recipes.noise import write_noise


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return write_noise(tmp_path_factory.mktemp("images") / "pictures", 4)


def recipe(images: Path, output: Path, arguments=None, **options) -> ImageRecipe:
    options = {
        **{"architecture": "vit", "image_size": 8, "channels": 1, "d_model": 8, "layers": 1},
        **{"heads": 2, "train_steps": 2, "train_batch_size": 8, "attacks": False},
        **options,
    }
    data = ImageArguments(
        str(images), train_split="train", test_split="test", forget_classes=["cat"], retain_size=2
    )
    values = {
        "max_steps": 2,
        "check_steps": 1,
        "stop_when": "forget_accuracy <= -1",
        "learning_rate": 0.05,
    }
    args = UnlearnConfig(
        str(output),
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        max_grad_norm=0.0,
        **{**values, **(arguments or {})},
    )
    return ImageRecipe.load(ImageRecipeArguments(**options), data, args, training=True)


def loss_of(folder: Path, images: Path) -> dict:
    """The losses of the splits under the model that `from_pretrained` loads from a folder."""
    fresh = recipe(images, folder, model=str(folder))
    trainer = fresh.evaluation_trainer(fresh.load_model(str(folder)))
    measured = measure(fresh, trainer, None)
    return {split: values["loss"] for split, values in measured.splits.items()}


def test_each_request_leaves_the_model_that_its_results_describe(pictures, tmp_path):
    out = tmp_path / "out"
    losses = []
    for model, lora_r in (("train", 2), (str(out), 2), (str(out), 0), (str(out), 2)):
        results = unlearn(
            recipe(pictures, out, model=model, lora_r=lora_r, trainable="proj|query|value")
        )
        written = json.loads((out / "results.json").read_text())
        losses.append({split: values["loss"] for split, values in written["unlearned"].items()})
        assert loss_of(out, pictures) == pytest.approx(losses[-1], rel=1e-4), (model, lora_r)
        before = {split: values["loss"] for split, values in results["original"].items()}
        assert model == "train" or before == pytest.approx(losses[-2], rel=1e-4)
        # The fourth goes on from the whole model that the third has left.
        whole = {1: None, 4: str(out)}.get(len(losses), str(out / "original"))
        assert results["card"]["base_model"] == whole
        assert (out / "adapter_config.json").exists() == bool(lora_r)
    assert len({round(values["test"], 4) for values in losses}) == 4


def test_a_stacked_adapter_is_one_adapter_of_the_same_base(pictures, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    unlearn(recipe(pictures, first, lora_r=2, trainable="proj|query|value"))
    options = {"model": str(first), "lora_r": 3, "lora_alpha": 6, "merge_adapter": False}
    results = unlearn(recipe(pictures, second, **options))
    config = json.loads((second / "adapter_config.json").read_text())
    assert config["r"] == 5 and config["base_model_name_or_path"] == str(first / "original")
    losses = {split: values["loss"] for split, values in results["unlearned"].items()}
    assert loss_of(second, pictures) == pytest.approx(losses, rel=1e-4)
    assert loss_of(first, pictures) != pytest.approx(losses, rel=1e-4)
    # The merged model that it was trained on is not left behind.
    assert not (second / "base").exists()
    assert weights_digest(second) == read_ledger(second / LEDGER)[1]["weights_after"]
    assert verify_by_repetition(second)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora_r": 0}, "but lora_r is 0: set it"),
        ({"lora_r": 2}, "'train' has none"),
        ({"lora_r": 2, "model": "adapter"}, "output_dir is the same folder"),
        ({"lora_r": 2, "model": "adapter", "output_dir": "other"}, "exact only for plain LoRA"),
    ],
)
def test_requests_that_cannot_be_stacked_are_refused_early(tmp_path, options, message):
    config = LoraConfig(use_dora=True, base_model_name_or_path="base")
    config.save_pretrained(tmp_path / "adapter")
    values = {"model": "train", "output_dir": "adapter", **options}
    for name in {"model", "output_dir"} - ({"model"} if values["model"] == "train" else set()):
        values[name] = str(tmp_path / values[name])
    output_dir = values.pop("output_dir")
    with pytest.raises(ValueError, match=message):
        check_stacking(ImageRecipeArguments(**values, merge_adapter=False), output_dir)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataloader_drop_last": True}, "no step would be taken with dataloader_drop_last"),
        ({"max_steps": 0}, "max_steps is 0"),
    ],
    ids=["drop last", "max steps"],
)
def test_no_step_is_found_before_anything_is_trained(
    pictures, tmp_path, arguments, message, monkeypatch
):
    monkeypatch.setattr(training, "fit", lambda *_: pytest.fail("trained"))
    for dry_run in (False, True):
        with pytest.raises(ValueError, match=message):
            unlearn(recipe(pictures, tmp_path / "out", arguments, dry_run=dry_run))
    assert not (tmp_path / "out" / "README.md").exists()


def test_a_dry_run_counts_the_adapters_that_trainable_leaves(pictures, tmp_path, capsys):
    targets = ["q_proj", "v_proj", "query", "value"]
    both, one = (
        unlearn(
            recipe(
                pictures,
                tmp_path / "out",
                dry_run=True,
                lora_r=2,
                trainable=trainable,
                lora_target_modules=targets,
            )
        )["trained parameters"]
        for trainable in ("", "q_proj|query")
    )
    assert int(one.split()[0]) * 2 == int(both.split()[0]) > 0
    shown = capsys.readouterr().out
    for line in ("forgotten: cat", "stop when: forget_accuracy <= -1", "learning rate: 0.05"):
        assert f"\n{line}" in shown and f"dataset: {pictures}" in shown
