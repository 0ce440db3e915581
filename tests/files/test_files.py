"""The files of models: in a folder, beside a checkpoint, and in the cache of the Hub; and the files
that only their owner can read."""

import stat

import pytest

from hf_unlearn.files import model_file, model_folder, written_whole

COMMIT = "0" * 40


@pytest.fixture
def models(tmp_path, monkeypatch):
    """A run with a checkpoint, and a model that was downloaded."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    repository = tmp_path / "cache" / "models--me--quiet"
    snapshot = repository / "snapshots" / COMMIT
    for folder in (tmp_path / "run" / "checkpoint-3", tmp_path / "run" / "original", snapshot):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    for folder in (tmp_path / "run", snapshot):
        (folder / "results.json").write_text("{}")
    return {
        "folder": (str(tmp_path / "run"), tmp_path / "run", tmp_path / "run"),
        "checkpoint": (
            str(tmp_path / "run" / "checkpoint-3"),
            tmp_path / "run",
            tmp_path / "run" / "checkpoint-3",
        ),
        "another folder of the run": (
            str(tmp_path / "run" / "original"),
            None,
            tmp_path / "run" / "original",
        ),
        "Hub": ("me/quiet", snapshot, snapshot),
        "unknown": ("me/unknown", None, None),
        "no name of a model": ("/no/such/folder", None, None),
    }


@pytest.mark.parametrize(
    "kind",
    [
        "folder",
        "checkpoint",
        "another folder of the run",
        "Hub",
        "unknown",
        "no name of a model",
    ],
)
def test_the_file_and_the_folder_of_a_model(models, kind):
    name, with_results, folder = models[kind]
    expected = None if with_results is None else with_results / "results.json"
    assert model_file(name, "results.json") == expected
    assert model_folder(name) == folder


def test_a_private_file_is_never_open_to_others(tmp_path):
    target = tmp_path / "transcripts.json"
    target.write_text("older, and open to others")
    with written_whole(target, private=True) as partial:
        assert stat.S_IMODE(partial.stat().st_mode) == 0o600
        partial.write_text("{}")
    assert stat.S_IMODE(target.stat().st_mode) == 0o600 and target.read_text() == "{}"
