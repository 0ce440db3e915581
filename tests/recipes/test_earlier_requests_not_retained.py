"""A second request does not retain what earlier requests made the model forget."""

import json
import logging

import pytest

from hf_unlearn import UnlearnConfig
from hf_unlearn.data.images import ImageArguments
from hf_unlearn.experiments import unlearn
from hf_unlearn.experiments.history.from_results import as_results, forgotten_names
from hf_unlearn.experiments.images.recipe import ImageRecipe, ImageRecipeArguments
from hf_unlearn.privacy.redaction import redact
from tests.recipes.noise import write_noise


def results(task="speakers", **changes) -> dict:
    data = {
        "speakers": {"forget": ["anna"], "retain": ["bert"]},
        "classes": {"forget": ["dog"]},
        "forget_ids": ["a-1"],
    }
    return {"task": task, "data": data, "unlearned": {}, **changes}


@pytest.fixture
def model(tmp_path):
    def write(given) -> str:
        (tmp_path / "results.json").write_text(
            given if isinstance(given, str) else json.dumps(given)
        )
        return str(tmp_path)

    return write


@pytest.mark.parametrize(
    "given, found",
    [
        (results(), {"speaker": ["anna"]}),
        (results("classes"), {"class": ["dog"]}),
        (results("samples"), {"id": ["a-1"]}),
        (results(forgotten_before={"forget_speakers": ["carl"]}), {"speaker": ["anna", "carl"]}),
        (
            results("classes", forgotten_before={"forget_ids": ["7"]}),
            {"class": ["dog"], "id": ["7"]},
        ),
        # somebody else's file of this name
        ({"accuracy": 0.5}, {}),
        ([], {}),
        ("{", {}),
    ],
)
def test_results_tell_of_earlier_requests(model, given, found):
    assert forgotten_names(model(given)) == found


def test_a_checkpoint_and_models_without_results(model, tmp_path):
    model(results())
    (tmp_path / "checkpoint-3").mkdir()
    (tmp_path / "original").mkdir()
    assert forgotten_names(str(tmp_path / "checkpoint-3")) == {"speaker": ["anna"]}
    assert forgotten_names(str(tmp_path / "original")) == forgotten_names("train") == {}


def test_the_next_request_knows_of_this_one_and_publishes_nobody(model, caplog):
    second = results(forgotten_before=as_results({"speaker": ["carl"]}))
    published = redact(second, "salt")
    assert "carl" not in json.dumps(published) and "anna" not in json.dumps(published)
    with caplog.at_level(logging.WARNING):
        forgotten_names(model(published))
    assert "forget 2 speakers, whom its results.json names by pseudonyms only" in caplog.text


def test_a_second_request_leaves_the_first_class_out(tmp_path, caplog):
    folder = write_noise(tmp_path / "images", 4, ("cat", "dog", "owl"))

    def request(model: str, forgotten: str, output: str) -> dict:
        options = ImageRecipeArguments(
            model=model,
            architecture="resnet",
            image_size=8,
            channels=1,
            d_model=8,
            layers=1,
            train_steps=1,
            attacks=False,
        )
        data = ImageArguments(
            str(folder), test_split="test", forget_classes=[forgotten], retain_size=3
        )
        args = UnlearnConfig(
            str(tmp_path / output),
            max_steps=1,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
            per_device_retain_batch_size=3,
            check_steps=1,
            stop_when="forget_accuracy <= -1",
        )
        return unlearn(ImageRecipe.load(options, data, args, training=options.trains))

    first = request("train", "cat", "first")
    second = request(str(tmp_path / "first"), "dog", "second")
    assert first["forgotten_before"] == {} and second["forgotten_before"] == {
        "forget_classes": ["cat"]
    }
    kept = dict(second["data"]["classes"])
    assert kept.pop("earlier_1") == ["cat"]
    assert {name for names in kept.values() for name in names} == {"dog", "owl"}
    said = "class cat already forgotten by this model: left out of all splits except earlier_1."
    assert said in caplog.text
    assert forgotten_names(str(tmp_path / "second")) == {"class": ["cat", "dog"]}
