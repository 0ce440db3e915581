"""`hf-unlearn audit` on a run's folder: what it writes, how it goes on, and its exit code."""

import json
import shutil
from dataclasses import replace

import pytest
import yaml
from safetensors.torch import load_file, save_file

from hf_unlearn.cli import main
from hf_unlearn.experiments.audit import (
    DOORS,
    AuditSettings,
    DoorUnavailable,
    audit,
    run_audit,
)
from hf_unlearn.experiments.audit.audit_file import load_or_start
from hf_unlearn.experiments.audit.audited_run import find_run
from hf_unlearn.experiments.audit.run_audit import load_subjects
from hf_unlearn.files import write_json

pytestmark = pytest.mark.slow

MODELS = ("original", "unlearned", "retrained")
QUICK = ("float32", "int4", "loss")


class MeasuredAgain(BaseException):
    """Like KeyboardInterrupt, it ends an audit, which any other error of a door does not."""


def test_every_door_is_measured_or_says_why_not(run, no_network, capsys):
    content = audit(run)
    assert list(json.loads((run / "audit.json").read_text())["doors"]) == list(DOORS)
    assert not [entry["failed"] for entry in content["doors"].values() if "failed" in entry]
    for name in (
        "float32",
        "bfloat16",
        "float16",
        "int8",
        "saved_and_loaded",
        "relearning",
        "loss",
    ):
        assert set(MODELS) < content["doors"][name].keys(), name
    assert "no adapter" in content["doors"]["adapter_unmerged"]["unavailable"]
    # As the run itself measured them.
    results = json.loads((run / "results.json").read_text())
    for model in MODELS:
        measured = results[model]["forget_test"]["accuracy"]
        assert content["doors"]["float32"][model] == pytest.approx(measured)
    assert results["audit"]["worst"] == content["worst"]
    assert content["judged"] == {"split": "forget_test", "samples": 10}
    assert content["samples"]["forget_test"] == {"used": 10, "of": 10}
    assert content["max_samples"] == AuditSettings.max_samples
    shown, worst = capsys.readouterr().out, content["worst"]["door"]
    for text in (shown, (run / "report.html").read_text(), (run / "README.md").read_text()):
        assert f"Worst door: {worst}" in text and "saved_and_loaded" in text
    assert str(run.parent) not in (run / "audit.json").read_text()


def test_a_second_call_goes_on_where_the_first_stopped(run, monkeypatch):
    audit(run, doors=QUICK[:2])

    def refuse(subject):
        raise MeasuredAgain

    again = {name: replace(DOORS[name], measure=refuse) for name in QUICK[:2]}
    monkeypatch.setattr(run_audit, "DOORS", {**DOORS, **again})
    content = audit(run, doors=QUICK)
    assert list(content["doors"]) == list(QUICK)
    # Other samples are another audit.
    with pytest.raises(MeasuredAgain):
        audit(run, settings=AuditSettings(max_samples=5), doors=QUICK)


def test_a_changed_setting_concerns_only_the_doors_that_depend_on_it(
    run, measured_doors, monkeypatch, caplog
):
    doors = ("float32", "relearning", "benign_tuning", "loss")
    monkeypatch.setattr(run_audit, "add_to_run", lambda *_: None)
    measured = measured_doors(*doors)

    def measured_with(**settings):
        measured.clear()
        quick = {"relearn_samples": 4, "relearn_steps": 1}
        content = audit(run, settings=AuditSettings(**{**quick, **settings}))
        assert list(content["doors"]) == list(doors)
        return content["doors"], set(measured)

    assert measured_with()[1] == set(doors)
    entries, again = measured_with(relearn_steps=2, num_beams=2)
    assert again == {"relearning", "benign_tuning"}
    assert "since their settings have changed: relearning, benign_tuning" in caplog.text
    assert entries["benign_tuning"]["settings"]["relearn_steps"] == 2
    # Attacks compare forget with unseen samples, whatever the split that other doors judge by.
    again = measured_with(relearn_steps=2, judged_split="forget")[1]
    assert again == {"float32", "relearning", "benign_tuning"}


def test_an_audit_of_something_else_starts_again(run, finished, tmp_path, caplog):
    images = shutil.copytree(finished.parent / "images", tmp_path / "images")
    results = json.loads((run / "results.json").read_text())

    def kept(**trainer) -> bool:
        results["config"]["trainer"].update(trainer)
        results["config"]["data"]["dataset"] = str(images)
        (run / "results.json").write_text(json.dumps(results))
        found = find_run(run)
        subjects = load_subjects(found, AuditSettings(relearn_learning_rate=0.1))
        content = load_or_start(run / "audit.json", found, subjects)
        entry = {"unlearned": 1, "settings": {"judged_split": "forget_test"}}
        doors = {"float32": entry}
        write_json(run / "audit.json", {**content, "doors": doors})
        return "float32" in content["doors"]

    assert not kept() and kept()
    assert not kept(per_device_eval_batch_size=3)
    # Another image of the same name.
    one, other, *_ = sorted((images / "test" / "dog").iterdir())
    shutil.copy(other, one)
    assert not kept()
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 0.5}))
    assert not kept()
    (run / "audit.json").write_text("{")
    assert not kept() and "is an audit of other models or data" in caplog.text


def test_a_door_that_fails_or_is_unavailable_stops_no_other(run, monkeypatch, capsys):
    def fail(subject):
        raise AttributeError("not on\nthis device")

    def close(subject):
        raise DoorUnavailable("no such tokens")

    doors = {
        "float32": replace(DOORS["float32"], measure=fail),
        "int4": replace(DOORS["int4"], measure=close),
        "loss": DOORS["loss"],
    }
    monkeypatch.setattr(run_audit, "DOORS", doors)
    content = audit(run)
    assert content["doors"]["float32"]["failed"] == "AttributeError: not on this device"
    assert content["doors"]["int4"]["unavailable"] == "no such tokens"
    assert content["worst"]["door"] == "loss"
    # A release must not pass because a door could not be tried.
    gate = ["audit", str(run), "--fail_when"]
    assert main([*gate, "worst_gap > 1000"]) == 1
    assert "cannot pass, because doors FAILED: float32." in capsys.readouterr().err
    assert main([*gate, "worst_gap > -1000"]) == 3
    assert main([*gate, "worst_gap > 1000", "--doors", "int4", "loss"]) == 0
    # What was not asked for is still told.
    assert list(json.loads((run / "audit.json").read_text())["doors"]) == list(doors)
    # Both may be open now.
    monkeypatch.setattr(run_audit, "DOORS", DOORS)
    assert "unlearned" in audit(run, doors=QUICK)["doors"]["float32"]


@pytest.mark.parametrize(
    ("rule", "code", "said"),
    [
        ("float32_gap > 1000", 0, "the audit passes"),
        ("worst_gap > -1000", 3, "the audit FAILS"),
        ("int8_gap > 1", 1, "this audit has no int8_gap: it has float32_gap"),
        ("best_gap > 1", 1, "best_gap is none of worst_gap"),
        ("worst_gap > original + 1", 1, "original is none of worst_gap"),
    ],
)
def test_a_rule_decides_the_exit_code(run, rule, code, said, capsys):
    arguments = ["audit", str(run), "--doors", *QUICK, "--fail_when", rule]
    assert main(arguments) == code
    shown = capsys.readouterr()
    assert said in (shown.err if code == 1 else shown.out)


def test_a_model_that_has_diverged_is_said_to_have(run, capsys):
    weights = load_file(run / "model.safetensors")
    weights["classifier.1.weight"][:] = float("nan")
    save_file(weights, run / "model.safetensors", {"format": "pt"})
    doors = ["float32", "loss", "distance_to_retain"]
    audit(run, doors=doors)
    entries = json.loads((run / "audit.json").read_text())["doors"]
    assert "the model has diverged" in entries["loss"]["unavailable"]
    # The highest of several logits that are no numbers is not the first class, which was forgotten.
    assert entries["float32"]["unlearned"] == 0
    assert entries["float32"]["more"]["unlearned"]["loss"] is None
    # Read again, and shown in the card.
    audit(run, doors=doors)
    for text in (capsys.readouterr().out, (run / "README.md").read_text()):
        assert "unlearned not finite" in text


def test_a_model_without_results_needs_the_configuration(run, tmp_path, capsys):
    config = json.loads((run / "results.json").read_text())["config"]
    (run / "results.json").unlink()
    assert main(["audit", str(run)]) == 1
    assert "give the run's configuration too" in capsys.readouterr().err
    # No retrained model is named: only the original stands beside the unlearned one.
    settings = {
        **{name: config["data"][name] for name in ("dataset", "train_split", "test_split")},
        **{"forget_classes": ["cat"], "retain_size": 4, "use_cpu": True},
        "model": str(run / "original"),
    }
    (tmp_path / "given.yaml").write_text(yaml.safe_dump(settings))
    content = audit(run, tmp_path / "given.yaml", doors=QUICK)
    assert "retrained" not in content["doors"]["float32"] and content["conspicuous"] is None
    assert set(content["worst"]) >= {"original", "unlearned", "forgotten"}
    assert "Without a retrained model" in capsys.readouterr().out


def test_other_models_are_refused(tmp_path, capsys):
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]})
    )
    (tmp_path / "given.yaml").write_text("forget_speakers: [anna]\n")
    assert main(["audit", str(tmp_path), str(tmp_path / "given.yaml")]) == 1
    said = capsys.readouterr().err
    assert "no recipe is for GPT2LMHeadModel" in said and "they are for speech recognisers" in said
    (tmp_path / "given.yaml").write_text("model: some/model\n")
    assert main(["audit", str(tmp_path), str(tmp_path / "given.yaml")]) == 1
    assert "does not say what was forgotten: add the run's own value of one of forget_speakers" in (
        capsys.readouterr().err
    )


def test_mistakes_are_one_line(run, capsys):
    assert main(["audit", str(run), "--doors", "backdoor"]) == 1
    assert "there is no door backdoor" in capsys.readouterr().err
    for option, value in (("relearn_steps", "0"), ("max_samples", "-1"), ("judged_split", "test")):
        assert main(["audit", str(run), f"--{option}", value]) == 1
        assert f"{option} is {value}, but must be" in capsys.readouterr().err.replace("'", "")
    results = json.loads((run / "results.json").read_text())
    before = results["config"]["recipe"]["model"]
    results["config"]["recipe"]["model"] = str(run)
    (run / "results.json").write_text(json.dumps(results))
    assert main(["audit", str(run)]) == 1
    assert "where the unlearned one has replaced it" in capsys.readouterr().err
    results["config"]["recipe"]["model"] = before
    results["config"]["models"] = {"original": "moved/away"}
    (run / "results.json").write_text(json.dumps(results))
    shutil.rmtree(run / "original")
    assert main(["audit", str(run)]) == 1
    assert "the original model is not in" in capsys.readouterr().err
    assert main(["audit", str(run / "nowhere")]) == 1
    assert "there is no folder" in capsys.readouterr().err
