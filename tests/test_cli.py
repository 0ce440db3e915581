"""The command line: its output, its exit codes, recipes by name, and mistakes in one line."""

import importlib
import itertools
import json
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from hf_unlearn.cli import main
from hf_unlearn.experiments import run_script
from hf_unlearn.experiments.catalogue import configuration_path, configurations, script_path
from hf_unlearn.experiments.compare import Comparison
from hf_unlearn.experiments.speech import whisper as speech
from hf_unlearn.report.results import Results
from tests.recipes.configurations import COMPARISONS
from tests.support.helpers import ROOT, run_python
from tests.support.hub_server import TOKEN
from tests.support.texts import names_sent

RECIPES = ROOT / "recipes"


@pytest.fixture
def started(monkeypatch) -> list[str]:
    """The command that `hf-unlearn run` or `evaluate` has replaced its process by."""
    words = []
    monkeypatch.setattr(os, "execv", lambda program, command: words.extend(command))
    return words


def fails(capsys, *argv, code=1) -> str:
    assert main(list(map(str, argv))) == code
    shown = capsys.readouterr()
    assert not shown.out and len(shown.err.strip().splitlines()) == 1
    return shown.err


def test_mistakes_are_one_line(capsys, tmp_path):
    assert "no configuration file" in fails(capsys, "run", tmp_path / "no.yaml")
    (tmp_path / "mine.yaml").write_text("alpha: 0.5\n")
    assert "no recipe" in fails(capsys, "run", tmp_path / "mine.yaml")
    assert "the configuration is missing" in fails(capsys, "run")
    assert "--model is missing" in fails(capsys, "evaluate", tmp_path / "mine.yaml")
    assert "no configuration file" in fails(capsys, "compare", tmp_path / "no.yaml")
    assert "give the output_dir" in fails(capsys, "card", tmp_path)
    assert "give the output_dir" in fails(capsys, "push", tmp_path, "--repo_id", "me/model")
    (tmp_path / "results.json").write_text("{")
    assert "cannot be read" in fails(capsys, "card", tmp_path)
    assert "--nmae_forgotten" in fails(capsys, "card", tmp_path, "--nmae_forgotten", code=2)


def test_a_traceback_is_shown_where_it_is_asked_for(capsys, tmp_path, started):
    with pytest.raises(ValueError, match="give the output_dir"):
        main(["card", str(tmp_path), "--traceback"])
    with pytest.raises(ValueError, match="no configuration file"):
        main(["run", str(tmp_path / "no.yaml"), "--traceback"])
    main(["run", "digits", "--traceback", "--alpha", "0.8"])
    assert started[3:] == ["--alpha", "0.8", "--traceback"]
    assert not capsys.readouterr().err


def test_an_error_of_a_library_is_no_mistake_of_the_user(tmp_path, monkeypatch):
    """The same rule as in the recipes' scripts."""

    def read(folder):
        raise ValueError("cannot reshape array")

    monkeypatch.setattr(Results, "read", read)
    with pytest.raises(ValueError, match="cannot reshape array"):
        main(["card", str(tmp_path)])


@pytest.mark.parametrize("command", ["run", "evaluate"])
def test_help_without_a_configuration_says_how_to_get_more(capsys, command):
    assert main([command, "--help"]) == 0
    assert "--recipe" in capsys.readouterr().out


def test_the_help_of_compare_has_every_key_of_the_file(capsys):
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    shown = capsys.readouterr().out
    names = [key.name for key in fields(Comparison)]
    assert not [name for name in names if not re.search(rf"^  {name} +\S", shown, re.M)]


@pytest.mark.parametrize("command", ["recipes", "--help", "run --help", "compare no.yaml --zzz"])
def test_commands_that_need_no_model_load_no_torch(command):
    code = f"""
import sys
from hf_unlearn.cli import main
try:
    main({command.split()})
except SystemExit:
    pass
print("loaded:", *{{"torch", "transformers", "datasets", "numpy"}} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].strip() == "loaded:"


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
        (
            "launch: --num_processes 2",
            [
                *("-m", "accelerate.commands.launch", "--num_processes", "2"),
                *("unlearn.py", "x.yaml", "--alpha", "0.8"),
            ],
        ),
        ("recipe: RECIPE", ["other.py", "x.yaml", "--alpha", "0.8"]),
    ],
)
def test_run_starts_the_recipe(given, expected, tmp_path, started):
    (tmp_path / "unlearn.py").touch()
    (tmp_path / "other.py").touch()
    (tmp_path / "x.yaml").write_text(given.replace("RECIPE", str(tmp_path / "other.py")))
    main(["run", str(tmp_path / "x.yaml"), "--alpha", "0.8"])
    assert [word.removeprefix(f"{tmp_path}/") for word in started] == [sys.executable, *expected]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("digits", ["digits/unlearn.py", "digits/digits.yaml"]),
        ("vit_cifar10/class", ["vit_cifar10/unlearn.py", "vit_cifar10/class.yaml"]),
        ("whisper_librispeech", ["whisper_librispeech/unlearn.py"]),
    ],
)
def test_run_and_evaluate_take_the_name_of_a_recipe(name, expected, started):
    expected = [sys.executable, *(str(RECIPES / path) for path in expected)]
    main(["run", name, "--dataset", "mine"])
    assert started == [*expected, "--dataset", "mine"]
    started.clear()
    main(["evaluate", name, "--model", "out/mine"])
    assert started == [*expected, *"--evaluate true --gold none --model out/mine".split()]


def test_recipes_are_listed_with_their_configurations(capsys):
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    named = [line.strip() for line in lines if line.startswith(" ")]
    assert named == sorted(
        f"{path.parent.name}/{path.stem}"
        for path in RECIPES.glob("*/*.yaml")
        if path.parent.name != "accelerate" and path not in COMPARISONS
    )
    purposes = dict(line.split(": ", 1) for line in lines if not line.startswith(" "))
    assert set(purposes) == {name.split("/")[0] for name in named} and all(purposes.values())


def test_a_comparison_is_known_by_its_methods_not_by_its_name(tmp_path):
    (tmp_path / "fair.yaml").write_text("recipe: digits\nmethods: {scrub: [{}]}\n")
    (tmp_path / "comparable.yaml").write_text("recipe: mine.py\nmethod: scrub\n")
    assert list(configurations(tmp_path)) == ["comparable"]


def test_a_copied_recipe_is_complete_and_runs_in_its_own_folder(tmp_path, capsys, started):
    folder = tmp_path / "new" / "mine"
    assert main(["recipes", "copy", "digits", str(folder)]) == 0
    assert f"hf-unlearn run {folder}/" in capsys.readouterr().out
    for name in ("unlearn.py", "digits.py", "README.md"):
        assert (folder / name).read_text() == (RECIPES / "digits" / name).read_text()
    for name in ("digits.yaml", "compare.yaml"):
        text = (RECIPES / "digits" / name).read_text()
        assert (folder / name).read_text() == text.replace("recipes/digits/", f"{folder}/")
    comparison = Comparison.read(folder / "compare.yaml")
    assert Path(comparison.recipe) == folder / "unlearn.py" and Path(comparison.config).is_file()
    assert not (folder / "__pycache__").exists()
    main(["run", str(folder / "digits.yaml")])
    assert started == [sys.executable, str(folder / "unlearn.py"), str(folder / "digits.yaml")]


def test_mistakes_with_recipes_are_one_line(capsys, tmp_path):
    shown = fails(capsys, "run", "digts")
    assert "no recipe digts: the recipes are ctc_librispeech, demo, digits" in shown
    shown = fails(capsys, "run", "vit_cifar10/clas")
    assert "the recipe vit_cifar10 has no configuration clas: it has cifar100_class" in shown
    assert "the recipe or the folder is missing" in fails(capsys, "recipes", "copy", "digits")
    assert "no recipe digts" in fails(capsys, "recipes", "copy", "digts", tmp_path / "new")
    (tmp_path / "kept.txt").touch()
    shown = fails(capsys, "recipes", "copy", "digits", tmp_path)
    assert "already exists and is not empty" in shown
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_compare_takes_names_of_recipes():
    assert script_path("digits") == RECIPES / "digits" / "unlearn.py"
    assert configuration_path("digits/digits") == RECIPES / "digits" / "digits.yaml"
    assert script_path("my/own.py") == Path("my/own.py")
    assert configuration_path("my/own.yaml") == Path("my/own.yaml")
    with pytest.raises(ValueError, match="whisper_librispeech/NAME"):
        configuration_path("whisper_librispeech")


@pytest.mark.parametrize(
    ("file", "ours"),
    [
        ("mine/unlearn.py", True),
        ("mine/helpers.py", True),
        ("elsewhere.py", False),
        ("mine/.venv/lib/python3/site-packages/other/module.py", False),
    ],
)
def test_only_errors_of_the_recipe_and_the_package_are_one_line(file, ours, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["unlearn.py"])
    code = compile("def main(argv): raise ValueError('a mistake')", str(tmp_path / file), "exec")
    names = {}
    exec(code, names)
    script = str(tmp_path / "mine" / "unlearn.py")
    with pytest.raises(SystemExit if ours else ValueError, match="a mistake"):
        run_script(names["main"], script)
    monkeypatch.setattr(sys, "argv", ["unlearn.py", "--traceback"])
    with pytest.raises(ValueError, match="a mistake"):
        run_script(names["main"], script)


def test_what_the_standard_library_raises_is_a_mistake_of_its_caller(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["unlearn.py", "a.txt", "--traceback"])

    def main(argv):
        assert argv == ["a.txt"]
        (tmp_path / argv[0]).read_text()

    script = Path(__file__).parent / "unlearn.py"
    with pytest.raises(FileNotFoundError):
        run_script(main, str(script))
    sys.argv.remove("--traceback")
    with pytest.raises(SystemExit, match="error: .*No such file or directory: .*a.txt"):
        run_script(main, str(script))
    with pytest.raises(FileNotFoundError):
        run_script(main, str(tmp_path / "unlearn.py"))


TINY = (
    "--train_steps 2 --train_batch_size 2 --d_model 16 --layers 1 --heads 2 --max_steps 2 "
    "--retain_size 2 --per_device_train_batch_size 2 --per_device_retain_batch_size 2 "
    "--max_eval_samples 2 --check_steps 1 --check_samples 2 --disable_tqdm true --use_cpu true "
    "--gold none --forget_speakers bruno --stop_when forget_loss>=1000 "
    "--abort_when test_loss>1000 --report_audio 1"
).split()
LOAD = """
import sys
from transformers import pipeline
import soundfile
samples, rate = soundfile.read(sys.argv[2], dtype="float32")
recogniser = pipeline("automatic-speech-recognition", model=sys.argv[1])
print(repr(recogniser({"raw": samples, "sampling_rate": rate})["text"]))
"""


@pytest.fixture
def demo(monkeypatch, tmp_path):
    """Runs the speech recipe with the demo's configuration and tiny settings, on few voices."""
    pytest.importorskip("espeakng_loader")
    monkeypatch.syspath_prepend(RECIPES / "demo")
    voices = importlib.import_module("voices")
    folder = voices.write_voices(tmp_path / "voices", voices=voices.VOICES[:3], train=4, test=2)
    words = [
        str(RECIPES / "demo" / "demo.yaml"),
        "--dataset",
        str(folder),
        "--output_dir",
        str(tmp_path / "quiet"),
        *TINY,
    ]
    return lambda *options: speech.main([*words, *options])


def load_as_another_user(hub_url: str, cache: Path, sound: Path) -> None:
    """Transcribes a file with the pushed model, in a process that has only the Hub."""
    world = {
        "HF_ENDPOINT": hub_url,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(cache),
    }
    run_python("-c", LOAD, "me/quiet", sound, env={**os.environ, **world}, timeout=120)


@pytest.mark.slow
def test_from_a_configuration_to_a_loaded_model(demo, hub, tmp_path, capsys, monkeypatch):
    """The steps of a new user: dry run, run, evaluate, push; then another user loads the model from
    the Hub."""
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
    assert not names_sent(hub, "bruno", "clara")
    load_as_another_user(hub.url, tmp_path / "else", next((tmp_path / "voices").rglob("*.flac")))

    hub.failures["/"] = itertools.repeat(401)
    assert main(["push", str(out), "--repo_id", "me/quiet"]) == 1
    shown = capsys.readouterr()
    assert "pushed" not in shown.out and shown.err.strip().splitlines()[-1].startswith(
        "error: could not push to me/quiet"
    )
