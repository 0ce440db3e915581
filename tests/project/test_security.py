"""Nothing downloaded is executed: no pickle, no remote code, no unsafe YAML, no shell.

Nor can data choose where files are written.
"""

import ast
import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoModelForImageClassification

from hf_unlearn.experiments.compare import Comparison
from tests.support.helpers import ROOT
from tests.support.tiny import make_trainer, tiny_whisper

SOURCES = [
    path for folder in ("hf_unlearn", "recipes") for path in sorted((ROOT / folder).rglob("*.py"))
]


def unsafe(code: str) -> list[str]:
    """Imports and calls in Python code that could execute code of somebody else."""
    dangers = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = (
                [node.module]
                if isinstance(node, ast.ImportFrom)
                else [name.name for name in node.names]
            )
            dangers += [
                name for name in names if name in ("pickle", "dill", "cloudpickle", "shelve")
            ]
        if not isinstance(node, ast.Call):
            continue
        name, options = (
            ast.unparse(node.func),
            {option.arg: ast.unparse(option.value) for option in node.keywords},
        )
        if name in ("eval", "exec", "os.system", "yaml.load", "yaml.unsafe_load", "yaml.full_load"):
            dangers.append(name)
        if name == "torch.load" and options.get("weights_only") != "True":
            dangers.append(name)
        if name in ("np.load", "numpy.load") and options.get("allow_pickle", "False") != "False":
            dangers.append(name)
        dangers += [
            f"{name}({option})"
            for option in ("trust_remote_code", "shell")
            if options.get(option) == "True"
        ]
    return dangers


def test_our_code_executes_no_foreign_code():
    assert not {
        str(path.relative_to(ROOT)): dangers
        for path in SOURCES
        if (dangers := unsafe(path.read_text()))
    }


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "torch.load(f)",
        "yaml.load(f, Loader)",
        "f(x, trust_remote_code=True)",
        "run(c, shell=True)",
    ],
)
def test_unsafe_code_is_detected(code):
    assert unsafe(code)


def test_a_models_own_code_is_not_run(tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: "n")
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "model_type": "evil",
                "auto_map": {"AutoConfig": "evil.C", "AutoModelForImageClassification": "evil.M"},
            }
        )
    )
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(ValueError, match="custom code"):
        AutoModelForImageClassification.from_pretrained(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_yaml_makes_no_objects(tmp_path):
    (tmp_path / "x.yaml").write_text("recipe: !!python/object/apply:os.mkdir ['ran']\n")
    with pytest.raises(ValueError, match="is not valid YAML: could not determine a constructor"):
        Comparison.read(tmp_path / "x.yaml")
    assert not Path("ran").exists()


def test_a_saved_model_and_checkpoint_hold_no_token_and_no_pickled_arguments(tmp_path):
    trainer = make_trainer(
        tiny_whisper(), tmp_path, save_strategy="steps", save_steps=1, hub_token="hf_secretSecret"
    )
    trainer.train()
    trainer.save_model()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert (tmp_path / "checkpoint-1" / "training_args.json").is_file() and len(files) > 8
    assert not [path for path in files if path.name == "training_args.bin"]
    assert not [path for path in files if b"hf_secretSecret" in path.read_bytes()]
    for name in ("optimizer.pt", "scheduler.pt"):
        torch.load(tmp_path / "checkpoint-1" / name, weights_only=True)


def test_data_cannot_write_outside_of_its_folder(tmp_path):
    digits = importlib.import_module("recipes.whisper_librispeech.connected_digits")
    source = tmp_path / "source"
    source.mkdir()
    soundfile.write(source / "a.wav", np.zeros(1600, np.float32), 16_000)
    (source / "metadata.csv").write_text(
        "file_name,speaker,text,split\na.wav,../../../escaped,one,train\n"
    )
    with pytest.raises(ValueError, match="outside of"):
        digits.write_connected(source, tmp_path / "out", train=1, test=1)
    assert not (tmp_path / "escaped").exists()
