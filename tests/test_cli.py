"""The command line: what it prints, what it exits with, and that a mistake is one line."""

import importlib
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hf_unlearn.cli import main
from tests.hub_server import TOKEN

RECIPES = Path(__file__).parents[1] / "recipes"


def fails(capsys, *argv, code=1) -> str:
    assert main(list(map(str, argv))) == code
    shown = capsys.readouterr()
    assert not shown.out and len(shown.err.strip().splitlines()) == 1
    return shown.err


def test_mistakes_are_one_line(capsys, tmp_path):
    assert "no configuration file" in fails(capsys, "run", tmp_path / "no.yaml")
    (tmp_path / "mine.yaml").write_text("alpha: 0.5\n")
    assert "no recipe" in fails(capsys, "run", tmp_path / "mine.yaml")
    assert "which configuration" in fails(capsys, "run")
    assert "which model" in fails(capsys, "evaluate", tmp_path / "mine.yaml")
    assert "no configuration file" in fails(capsys, "compare", tmp_path / "no.yaml")
    assert "give the output_dir" in fails(capsys, "card", tmp_path)
    assert "give the output_dir" in fails(capsys, "push", tmp_path, "--repo_id", "me/model")
    (tmp_path / "results.json").write_text("{")
    assert "cannot be read" in fails(capsys, "card", tmp_path)
    assert "--nmae_forgotten" in fails(capsys, "card", tmp_path, "--nmae_forgotten", code=2)


@pytest.mark.parametrize("command", ["run", "evaluate"])
def test_help_without_a_configuration_says_how_to_get_more(capsys, command):
    assert main([command, "--help"]) == 0
    assert "--recipe" in capsys.readouterr().out


def test_wrong_usage_exits_with_2(capsys):
    for argv in ([], ["push", "out"], ["unknown"]):
        with pytest.raises(SystemExit) as left:
            main(argv)
        assert left.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_env_has_what_an_issue_needs(capsys):
    assert main(["env"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert {"python", "packages", "device", "kernels"} <= set(shown)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("seed: 0", ["unlearn.py", "x.yaml", "--alpha", "0.8"]),
        ("launch: --num_processes "
         "2", ["-m", "accelerate.commands.launch", "--num_processes", "2", "unlearn.py", "x.yaml",
                                       "--alpha", "0.8"]),
        ("recipe: RECIPE", ["other.py", "x.yaml", "--alpha", "0.8"]),
    ],
)  # fmt: skip
def test_run_starts_the_recipe(given, expected, tmp_path, monkeypatch):
    (tmp_path / "unlearn.py").touch()
    (tmp_path / "other.py").touch()
    (tmp_path / "x.yaml").write_text(given.replace("RECIPE", str(tmp_path / "other.py")))
    started = []
    monkeypatch.setattr(os, "execv", lambda program, command: started.extend(command))
    main(["run", str(tmp_path / "x.yaml"), "--alpha", "0.8"])
    assert [word.removeprefix(f"{tmp_path}/") for word in started] == [sys.executable, *expected]


TINY = (
    "--train_steps 2 --train_batch_size 2 --d_model 16 --layers 1 --heads 2 --max_steps 2 "
    "--retain_size 2 "
    "--per_device_train_batch_size 2 --per_device_retain_batch_size 2 --max_eval_samples 2 "
    "--check_steps 1 "
    "--check_samples 2 --disable_tqdm true --use_cpu true --gold none --forget_speakers bruno "
    "--stop_when forget_wer>=90 --report_audio 1"
).split()
LOAD = """
import sys
from transformers import pipeline
import soundfile
samples, rate = soundfile.read(sys.argv[2], dtype="float32")
print(repr(pipeline("automatic-speech-recognition", model=sys.argv[1])({"raw": samples, "sampling_rate": rate})["text"]))
"""


@pytest.fixture
def demo(monkeypatch, tmp_path):
    """Runs the demo's script with tiny settings, as `hf-unlearn run` does; its voices are
    synthesised once."""
    pytest.importorskip("espeakng_loader")
    monkeypatch.syspath_prepend(RECIPES / "demo")
    monkeypatch.syspath_prepend(RECIPES / "whisper_librispeech")
    voices = importlib.import_module("voices")
    folder = voices.write_voices(tmp_path / "voices", voices=voices.VOICES[:3], train=4, test=2)
    given = [
        str(RECIPES / "demo" / "demo.yaml"),
        "--dataset",
        str(folder),
        "--output_dir",
        str(tmp_path / "quiet"),
        *TINY,
    ]
    unlearn = importlib.util.spec_from_file_location(
        "whisper_unlearn", RECIPES / "whisper_librispeech" / "unlearn.py"
    )
    module = importlib.util.module_from_spec(unlearn)
    unlearn.loader.exec_module(module)
    return lambda *options: module.main([*given, *options])


@pytest.mark.slow
def test_from_a_configuration_to_a_loaded_model(demo, hub, tmp_path, capsys, monkeypatch):
    """As a new user goes: dry run, run, evaluate, push, and somebody else loads the model from the
    Hub."""
    out = tmp_path / "quiet"
    demo("--dry_run", "true")
    planned = capsys.readouterr().out
    assert "'forget': 4" in planned and re.search(r"trained parameters: [\d,]+ of [\d,]+ ", planned)
    assert not (out / "model.safetensors").exists()

    monkeypatch.setattr(
        sys, "argv", ["unlearn.py", "demo.yaml", "--hub_token", TOKEN, "--forget_speakers", "bruno"]
    )
    demo("--hub_token", TOKEN)
    shown = capsys.readouterr()
    page = (out / "report.html").read_text()
    assert page.count("<audio") == 4 and "bruno" not in page and "WER (%) by speaker" in page
    texts = [path.read_text() for path in out.iterdir() if path.suffix in (".json", ".md", ".html")]
    assert TOKEN not in "".join([shown.out, shown.err, *texts])

    demo("--evaluate", "true", "--model", str(out))
    shown, results = capsys.readouterr().out, json.loads((out / "results.json").read_text())
    measured = json.loads((out / "evaluation.json").read_text())
    assert measured["evaluated"] == results["unlearned"]
    assert measured["attacks"]["evaluated"] == pytest.approx(results["attacks"]["unlearned"])
    assert re.search(r"Membership attack +wanted +evaluated", shown) and "unlearned" not in shown

    capsys.readouterr()
    assert main(["push", str(out), "--repo_id", "me/quiet"]) == 0
    assert "pushed: " in capsys.readouterr().out
    assert (
        b"bruno" not in b"\n".join(hub.received).lower()
        and b"clara" not in b"\n".join(hub.received).lower()
    )
    world = {
        "HF_ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path / "else"),
    }
    command = [sys.executable, "-c", LOAD, "me/quiet", next((tmp_path / "voices").rglob("*.flac"))]
    loaded = subprocess.run(
        command, env={**os.environ, **world}, capture_output=True, text=True, timeout=120
    )
    assert loaded.returncode == 0, loaded.stderr[-3000:]

    hub.failures["/"] = itertools.repeat(401)
    assert main(["push", str(out), "--repo_id", "me/quiet"]) == 1
    shown = capsys.readouterr()
    assert "pushed" not in shown.out and shown.err.strip().splitlines()[-1].startswith(
        "error: could not push to me/quiet"
    )
