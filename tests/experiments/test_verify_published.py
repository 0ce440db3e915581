"""`hf-unlearn verify --weights_only`: what anyone can check of a pushed folder."""

import json
import shutil

import pytest
import torch

from hf_unlearn.cli import main
from hf_unlearn.report.file_names import LEDGER
from hf_unlearn.report.weights import weights_digest
from tests.support.tiny import tiny_vit


@pytest.fixture
def pushed(tmp_path):
    """An original, and the folder of a request that has trained its classifier."""
    model = tiny_vit()
    model.save_pretrained(tmp_path / "original")
    with torch.no_grad():
        model.classifier.bias += 1
    save(model, tmp_path, weights_before=weights_digest(tmp_path / "original"))
    return tmp_path, model


def save(model, folder, **entry):
    model.save_pretrained(folder / "pushed")
    known = {"request": 1, "settings": {"trainable": "classifier"}, **entry}
    known |= {"weights_after": weights_digest(folder / "pushed")}
    (folder / "pushed" / LEDGER).write_text(json.dumps({"requests": [known]}))


def verify(folder, *options: str) -> int:
    return main(["verify", str(folder / "pushed"), "--weights_only", *options])


def test_the_weights_agree_with_the_ledger(pushed, capsys):
    folder, _ = pushed
    assert verify(folder) == 0
    assert "CONSISTENT: the weights are those that request 1 left." in capsys.readouterr().out
    assert verify(folder, "--original", str(folder / "original")) == 0
    said = capsys.readouterr().out
    assert "1 of " in said and "classifier.bias: by " in said
    assert f"left, starting from those of {folder / 'original'}." in said


def test_other_weights_are_found(pushed, capsys):
    folder, model = pushed
    with torch.no_grad():
        model.vit.layernorm.bias += 1
    before = weights_digest(folder / "original")
    # Weights that no request has trained, although the ledger knows them.
    save(model, folder, weights_before=before)
    assert verify(folder) == 0
    assert verify(folder, "--original", str(folder / "original")) == 3
    said = capsys.readouterr().out
    assert "that no request has trained (trainable is classifier): vit.layernorm.bias." in said
    # Another start, and weights that the ledger does not know.
    save(model, folder, weights_before="0" * 64)
    shutil.copytree(folder / "original", folder / "pushed", dirs_exist_ok=True)
    assert verify(folder, "--original", str(folder / "original")) == 3
    said = capsys.readouterr().out
    assert "are not those that request 1 left" in said
    assert "Request 1 did not start from the weights of" in said


def test_mistakes_are_one_line(pushed, capsys):
    folder, _ = pushed
    assert verify(folder, "--original", str(folder)) == 1
    assert "has no weights here" in capsys.readouterr().err
    assert verify(folder, "--steps", "2") == 1
    assert "--weights_only repeats nothing" in capsys.readouterr().err
    assert main(["verify", str(folder / "pushed"), "--original", "some/model"]) == 1
    assert "--original needs --weights_only" in capsys.readouterr().err
    (folder / "pushed" / LEDGER).unlink()
    assert verify(folder) == 1
    assert "to compare with: give a folder that has one" in capsys.readouterr().err
