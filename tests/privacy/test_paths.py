"""Local paths are cut down to their last part in everything that is published."""

import json
import os

import pytest

from hf_unlearn.experiments.running.run_files import local_paths
from hf_unlearn.hub.model_card import build_card
from hf_unlearn.hub.staging import stage
from hf_unlearn.privacy.paths import without_paths
from hf_unlearn.report.html_page import Report
from hf_unlearn.report.results import Results

FOLDERS = ("client/secret", "runs/jane doe")


@pytest.mark.parametrize(
    ("said", "cleaned"),
    [
        ("/home/jane/data/", "data"),
        ("~/projects/data", "data"),
        ("~jane/data", "data"),
        ("../../projects/data", "data"),
        ("./data", "data"),
        ("C:\\Users\\jane\\data", "data"),
        ("C:/Users/jane/data", "data"),
        ("\\\\server\\jane\\data", "data"),
        ("file:///home/jane/data.csv", "data.csv"),
        ("/home/jane doe/data", "data"),
        ("x '/home/jane doe/data' --model=/srv/jane/m --to ../jane/t", "x 'data' --model=m --to t"),
        ('["/home/jane/a", "~/jane/b"]', '["a", "b"]'),
        ("client/secret", "secret"),
        ("--data client/secret/a.flac --out=client/secret/", "--data a.flac --out=secret"),
        ("'runs/jane doe/x'", "'x'"),
    ],
)
def test_only_the_last_part_of_a_path_stays(said, cleaned):
    assert without_paths({"a": [said]}, FOLDERS) == {"a": [cleaned]}


@pytest.mark.parametrize(
    "said",
    [
        "openai/whisper-tiny.en",
        "https://huggingface.co/a/b",
        "and/or 1/2 km/h",
        "a\nb/c",
        "/",
        "..",
        "model\\.encoder\\.layers\\.\\d+",
        "\\d+/s",
        "my_client/secret2",
        "2021/01/02",
        "train/test",
    ],
)
def test_text_that_is_not_a_local_path_stays(said):
    assert without_paths(said, FOLDERS) == said


def test_relative_paths_on_the_command_line_are_left_out_of_what_is_published(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for folder in ("client/secret", "out"):
        os.makedirs(folder)
    words = [
        "own/unlearn.py",
        "--dataset",
        "client/secret",
        "--model=client/secret/",
        "--to",
        "out",
    ]
    local = local_paths([*words, "openai/whisper-tiny.en", "client/missing"])
    assert local == ["client/secret", "client/secret/"]
    results = {
        "task": "data",
        "config": {"method": "orthograd", "recipe": {"model": "client/secret/"}},
        "data": {"samples": {"forget": 3}},
        "command": f"python {' '.join(words)}",
        "original": None,
        "unlearned": None,
        "retrained": None,
        "seed": 0,
        "stopping": None,
        "card": {"local": local},
    }
    assert "client/" not in str(build_card(Results.from_dict(results), salt="x", **results["card"]))
    assert "client/" not in Report(Results.from_dict(results)).html()
    (tmp_path / "out" / "results.json").write_text(json.dumps(results))
    (tmp_path / "out" / "model.safetensors").write_bytes((0).to_bytes(8, "little"))
    monkeypatch.setattr("hf_unlearn.hub.staging.check_texts", lambda *_: None)
    (tmp_path / "staged").mkdir()
    stage(tmp_path / "out", tmp_path / "staged", "me/model", "salt")
    for file in ("results.json", "README.md"):
        assert "client/" not in (tmp_path / "staged" / file).read_text()
