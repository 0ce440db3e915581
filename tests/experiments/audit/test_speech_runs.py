"""`hf-unlearn audit` on runs of the other recipes for speech: which doors they have, and why they
lack the others."""

import json
from pathlib import Path

import datasets
import pytest

from hf_unlearn.experiments.audit import DOORS, AuditSettings, audit
from hf_unlearn.experiments.speech import classes, ctc, whisper
from tests.recipes import recognisers
from tests.recipes.recognisers import flags

pytestmark = pytest.mark.slow

# Of a few steps, so that a model changes but understands nothing.
TRAINED = {"model": "train", "gold": "train", "train_steps": 2, "train_batch_size": 4}
SIZE = {"d_model": 16, "layers": 1, "heads": 2, "attacks": "false", "per_device_eval_batch_size": 2}
CLASSES = {"label_column": "text", "chunk_length": 1, **TRAINED, **SIZE}
DECODED = (
    "beams",
    "as_the_original_decodes",
    "timestamps",
    "no_language",
    "wrong_language",
    "translate",
    "own_words",
)
EVERYWHERE = ("float32", "bfloat16", "int8", "saved_and_loaded", "relearning", "benign_tuning")
EVERYWHERE += ("loss", "gradient_norm", "distance_to_retain", "loss_of_equally_long")


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    # Pairs of utterances for the attacks.
    monkeypatch.setattr("hf_unlearn.experiments.audit.attacks.MIN_SAMPLES", 2)
    monkeypatch.setattr("hf_unlearn.metrics.informed_attack.TREES", 4)
    return recognisers.write_speech(tmp_path / "data")


def audited(out: Path) -> dict:
    """The doors of a run, none of which has failed."""
    settings = AuditSettings(relearn_samples=2, relearn_steps=1, judged_split="forget_test")
    content = audit(out, settings=settings)
    doors = content["doors"]
    assert list(doors) == list(DOORS)
    assert not {name: entry for name, entry in doors.items() if "failed" in entry}
    assert not [name for name in EVERYWHERE if "unlearned" not in doors[name]]
    return doors


def reason_of(doors: dict, *names: str) -> str:
    """The one reason why some doors are unavailable."""
    (reason,) = {doors[name]["unavailable"] for name in names}
    return reason


def test_an_audit_of_a_ctc_recogniser(data, no_network, tmp_path, capsys):
    out = tmp_path / "out"
    ctc.main(flags(data, out, **TRAINED, **SIZE))
    doors = audited(out)
    results = json.loads((out / "results.json").read_text())
    for model in ("original", "unlearned", "retrained"):
        assert doors["float32"][model] == pytest.approx(results[model]["forget_test"]["wer"])
    assert "unlearned" in doors["after_a_stranger"] and "unlearned" in doors["blank_penalty"]
    assert "no decoder" in reason_of(doors, *DECODED)
    assert "only Whisper" in reason_of(doors, "ctranslate2_int8", "ctranslate2_float16")
    assert "only a loss per utterance" in doors["svc_confidence_members"]["unavailable"]
    assert "unlearned" in doors["informed"]
    # One line for all doors that are unavailable for one reason.
    reason = reason_of(doors, *DECODED)
    assert f"{', '.join(DECODED)}: unavailable: {reason}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "label", [pytest.param("text", marks=pytest.mark.slow), "speaker"], ids=["data", "classes"]
)
def test_an_audit_of_a_classifier_of_speech(data, tmp_path, label):
    out = tmp_path / "out"
    rules = {"stop_when": "forget_loss >= 1000", "abort_when": "test_loss > 1000"}
    classes.main(flags(data, out, **{**CLASSES, "label_column": label, **rules}))
    doors = audited(out)
    results = json.loads((out / "results.json").read_text())
    for model in ("original", "unlearned", "retrained"):
        accuracy = results[model]["forget_test"]["accuracy"]
        assert doors["float32"][model] == pytest.approx(accuracy)
    assert "unlearned" in doors["svc_probability_members"]
    writes_nothing = reason_of(doors, *DECODED, "blank_penalty", "after_a_stranger")
    assert writes_nothing == reason_of(doors, "ctranslate2_int8") == "a classifier writes no text"
    no_class, no_strangers = (
        doors[name]["unavailable"] for name in ("loss_among_classes", "errors_among_strangers")
    )
    if label == "text":
        assert no_class == "no whole class was forgotten" and "0 speakers" in no_strangers
    else:
        assert no_class.startswith("there are 1 other speakers") and "never met" in no_strangers


def test_another_recogniser_with_a_decoder(data, no_network, tmp_path):
    model, out = recognisers.saved(recognisers.moonshine, tmp_path / "model"), tmp_path / "out"
    whisper.main(flags(data, out, model=model, attacks="false", language="en"))
    doors = audited(out)
    assert "unlearned" in doors["beams"] and "unlearned" in doors["after_a_stranger"]
    assert "only a CTC model" in doors["blank_penalty"]["unavailable"]
    assert "only Whisper" in doors["ctranslate2_int8"]["unavailable"]
    assert "several languages" in reason_of(doors, "no_language", "wrong_language", "translate")
