"""A second request: what the model was made to forget before is not retained again."""

import json
import logging

import pytest

from hf_unlearn.recipe.earlier import as_results, forgotten_before
from hf_unlearn.redaction import redact


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
        (tmp_path / "results.json").write_text(given if isinstance(given, str) else json.dumps(given))
        return str(tmp_path)

    return write


@pytest.mark.parametrize(
    "given, found",
    [
        (results(), {"speaker": ["anna"]}),
        (results("classes"), {"class": ["dog"]}),
        (results("samples"), {"id": ["a-1"]}),
        (results(forgotten_before={"forget_speakers": ["carl"]}), {"speaker": ["anna", "carl"]}),
        (results("classes", forgotten_before={"forget_ids": ["7"]}), {"class": ["dog"], "id": ["7"]}),
        ({"accuracy": 0.5}, {}),  # somebody else's file of this name
        ([], {}),
        ("{", {}),
    ],
)  # fmt: skip
def test_results_tell_of_earlier_requests(model, given, found):
    assert forgotten_before(model(given)) == found


def test_a_checkpoint_and_models_without_results(model, tmp_path):
    model(results())
    (tmp_path / "checkpoint-3").mkdir()
    (tmp_path / "original").mkdir()
    assert forgotten_before(str(tmp_path / "checkpoint-3")) == {"speaker": ["anna"]}
    assert forgotten_before(str(tmp_path / "original")) == forgotten_before("train") == {}


def test_the_next_request_knows_of_this_one_and_publishes_nobody(model, caplog):
    second = results(forgotten_before=as_results({"speaker": ["carl"]}))
    published = redact(second, "salt")
    assert "carl" not in json.dumps(published) and "anna" not in json.dumps(published)
    with caplog.at_level(logging.WARNING):
        forgotten_before(model(published))
    assert "was made to forget 2 speakers before, whom its results.json names by pseudonyms only" in caplog.text
