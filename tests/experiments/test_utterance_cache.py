"""The cache of transcripts and losses, which hold what forgotten speakers said."""

import json
import stat

import datasets
import pytest

from hf_unlearn.experiments.speech.utterance_cache import by_utterance


@pytest.fixture
def file(tmp_path, monkeypatch):
    """The file of the values with the key "model"."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    return tmp_path / "hf_unlearn" / "model.json"


def lengths(computed: list, states: list[str]) -> list:
    """The lengths of the states, from the cache; adds those to `computed` that are not in it."""

    def make(indices: list[int]) -> list:
        computed.append([states[index] for index in indices])
        return [len(states[index]) for index in indices]

    return by_utterance("model", states, make)


def test_only_the_owner_can_read_the_cache(file):
    lengths([], ["a"])
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_truncated_cache_is_computed_again(file):
    computed = []
    assert lengths(computed, ["a", "bc"]) == [1, 2]
    whole = file.read_text()
    file.write_text(whole[:-3])
    assert lengths(computed, ["a", "bc"]) == lengths(computed, ["a", "bc"]) == [1, 2]
    assert computed == [["a", "bc"]] * 2
    assert json.loads(file.read_text()) == json.loads(whole)


def test_a_cache_that_cannot_be_written_ends_no_run(file):
    file.parent.write_text("a file in place of the folder")
    assert lengths([], ["a"]) == [1]
