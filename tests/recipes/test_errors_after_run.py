"""Errors after a run lose nothing of it; a gold model with other inputs is refused before it."""

import json

import numpy as np
import pytest

from hf_unlearn.evaluation import (
    evaluate_splits,
    features_of_batch,
    prediction_logits,
    sample_features,
)
from hf_unlearn.experiments import unlearn
from hf_unlearn.experiments.models import attack_models
from hf_unlearn.experiments.running import run_files
from hf_unlearn.experiments.running.measurements import measure
from tests.recipes.shadow_recipe import shadow_recipe

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("failing", [("plot_history", "write_card", "Report"), ()])
def test_a_failing_plot_card_or_report_leaves_results_and_model(
    noise, tmp_path, monkeypatch, failing, capsys
):
    for name in failing:
        monkeypatch.setattr(run_files, name, lambda *_, **__: 1 / 0)
    unlearn(shadow_recipe(noise, tmp_path, shadow_models=0, gold="none", attacks=False))
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["scale"] == "percent" and results["unlearned"]["forget"]["accuracy"] >= 0
    assert (tmp_path / "model.safetensors").exists() and results["scores"]
    phases = ["loading", "training", "shadow_models", "evaluation", "unlearning", "checks"]
    assert list(results["phases"]) == phases
    assert all(found["memory_mb"] > 1 for found in results["phases"].values())
    assert "; peak memory" in capsys.readouterr().out
    if not failing:
        assert "Peak memory (MiB)" in (tmp_path / "report.html").read_text()
    for file in ("README.md", "report.html", "forgetting.png"):
        assert (tmp_path / file).exists() != bool(failing)


def test_a_failure_at_a_recipes_own_end_leaves_the_results(noise, tmp_path, monkeypatch):
    made = shadow_recipe(noise, tmp_path, shadow_models=0, gold="none", attacks=False)
    monkeypatch.setattr(made, "finish", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        unlearn(made)
    assert json.loads((tmp_path / "results.json").read_text())["unlearned"]


def test_a_gold_model_of_another_image_size_is_refused_before_anything_is_trained(noise, tmp_path):
    made = shadow_recipe(noise, tmp_path, shadow_models=0, gold=str(tmp_path / "gold"))
    other = shadow_recipe(noise, tmp_path, shadow_models=0, image_size=12)
    other.processor.save_pretrained(tmp_path / "gold")
    with pytest.raises(
        ValueError, match="gold: the processor of .*gold differs from the run's .* its size is .*12"
    ):
        unlearn(made)
    assert not (tmp_path / "original").exists()


def test_attacks_use_what_the_evaluation_has_computed(noise, tmp_path, monkeypatch):
    made = shadow_recipe(noise, tmp_path, shadow_models=0, relearn_samples=0)
    trainer = made.evaluation_trainer(made.load_model(None))
    with trainer.collecting_logits(features_of_batch) as noted:
        evaluate_splits(trainer, trainer.eval_dataset)
    assert noted.keys() == {f"eval_{split}" for split in trainer.eval_dataset}
    for split, rows in trainer.eval_dataset.items():
        expected, known = sample_features(trainer, rows), noted[f"eval_{split}"]
        assert expected.keys() == known.keys()
        assert all(np.array_equal(expected[name], known[name]) for name in expected)
    output = trainer.predict(trainer.eval_dataset["test"])
    right = prediction_logits(output).argmax(1) == output.label_ids
    # No split is computed again.
    monkeypatch.setattr(attack_models, "sample_features", lambda *_: 1 / 0)
    monkeypatch.setattr(trainer, "predict", lambda *_: 1 / 0)
    measured = measure(made, trainer, None).further
    assert measured["attacks"]["loss_auc"] > 0
    # The test split holds what is kept.
    assert measured["per_class"]["test"] == {"dog": 100 * right.mean()}
