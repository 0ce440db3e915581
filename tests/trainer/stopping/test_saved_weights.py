"""The numbers of a run are those of the weights that it saves."""

import json

import datasets
import pytest
from transformers import (
    EarlyStoppingCallback,
)

from hf_unlearn.trainer.publishing.run_results import EvaluationSets
from tests.support.tiny import FORGET, RETAIN, make_trainer, tiny_whisper
from tests.trainer.stopping.ended_runs import EARLY, card_of, trainer_of


class TestNumbersDescribeTheSavedWeights:
    def test_card_numbers_are_those_of_the_best_model(self, tmp_path):
        trainer = trainer_of(tmp_path, [EarlyStoppingCallback(2)], **EARLY)
        trainer.train()
        rows = {
            row["step"]: row["eval_test_loss"]
            for row in trainer.state.log_history
            if "eval_test_loss" in row
        }
        assert trainer.stopping == {
            "reason": "EarlyStoppingCallback",
            "step": 3,
            "rule": None,
            "abort_rule": None,
            "restored_step": 1,
        }
        trainer.create_model_card()
        said = json.loads((tmp_path / "results.json").read_text())["unlearned"]["test"]["loss"]
        assert said == rows[1] != rows[3]
        text = card_of(tmp_path)
        assert "at step 3: EarlyStoppingCallback. The model is that of step 1." in text
        assert f"{rows[1]:.3f}" in text and f"{rows[3]:.3f}" not in text
        # logged at step 3, with the weights of step 1
        trainer.evaluate()
        assert trainer.own_results().unlearned["test"]["loss"] == pytest.approx(said, rel=1e-6)

    def test_numbers_are_those_of_the_best_model_with_a_checkpoint(self, tmp_path):
        """The best evaluation may be of a step that was not saved; then an earlier one is
        loaded."""
        trainer = trainer_of(
            tmp_path, **{**EARLY, "max_steps": 3, "save_steps": 2, "eval_steps": 1}
        )
        # the third step is the best one; only the second and the last are saved
        trainer.args.greater_is_better = True
        trainer.args.save_total_limit = None
        trainer.train()
        best = int(trainer.state.best_model_checkpoint.rpartition("-")[2])
        assert trainer.stopping.get("restored_step", 3) == best
        logged = trainer.own_results().unlearned["test"]["loss"]
        assert trainer.evaluate()["eval_test_loss"] == pytest.approx(logged, rel=1e-6)

    def test_without_an_evaluation_of_these_weights_there_is_none(self, tmp_path):
        trainer = trainer_of(
            tmp_path, max_steps=3, eval_strategy="steps", eval_steps=2, eval_delay=0
        )
        trainer.train()
        trainer.state.log_history = [row for row in trainer.state.log_history if row["step"] < 3]
        assert trainer.own_results().unlearned is None

    def test_of_the_model_that_an_abort_restores(self, tmp_path):
        options = {
            "max_steps": 9,
            "learning_rate": 0.05,
            "method": "gradient_ascent",
            "abort_when": "test_loss > 4.2",
            "check_steps": 1,
            "eval_strategy": "steps",
            "eval_steps": 1,
        }
        trainer = trainer_of(tmp_path, **options)
        trainer.train()
        report = trainer.stopping
        assert report["reason"] == "aborted" and report["restored_step"] < report["step"]
        trainer.evaluate()
        results = trainer.own_results()
        said = results.unlearned if report["restored_step"] else results.original
        rows = [row for row in trainer.state.log_history if "eval_test_loss" in row]
        assert rows[-1]["weights_step"] == report["restored_step"]
        assert said["test"]["loss"] == rows[-1]["eval_test_loss"] <= 4.2

    def test_a_card_of_the_original_does_not_say_that_it_forgets(self, tmp_path):
        rules = {"stop_when": "forget_loss <= 0", "abort_when": "forget_loss > 4.2"}
        trainer = trainer_of(
            tmp_path, max_steps=9, check_steps=1, method="gradient_ascent", **rules
        )
        trainer.train()
        trainer.create_model_card()
        text = card_of(tmp_path)
        assert (
            "made to forget" not in text and "**the original, which has forgotten nothing**" in text
        )


class TestOtherEvaluationSets:
    def test_unnamed_datasets_are_told_apart(self, tmp_path):
        """Scripts evaluate a second dataset with the keys of the first one (MNLI)."""
        other = RETAIN[:3]
        trainer = make_trainer(
            tiny_whisper(encoder_layers=1, decoder_layers=1),
            tmp_path,
            arguments={"eval_dataset": FORGET[:3]},
        )
        for _ in range(2):
            losses = [trainer.evaluate()["eval_loss"], trainer.evaluate(other)["eval_loss"]]
            models = trainer.own_results().models()
            splits = models["unlearned" if trainer.state.global_step else "original"]
            assert [splits[name]["loss"] for name in ("evaluation", "evaluation 2")] == losses
            if not trainer.state.global_step:
                trainer.train()
        trainer.create_model_card()
        text = card_of(tmp_path)
        assert "| evaluation 2 |" in text and "No split of the forgotten samples was" in text
        assert "The original model was not evaluated" not in text

    def test_the_same_rows_are_the_same_set(self):
        rows = datasets.Dataset.from_dict({"x": [1, 2, 3]})
        sets = EvaluationSets(None)
        assert [sets.number(rows.select(range(n))) for n in (2, 2, 1, 2)] == [1, 1, 2, 1]
