"""A run resumes on another machine from a checkpoint that it has pushed."""

from pathlib import Path

import pytest
import torch
from huggingface_hub import snapshot_download

from hf_unlearn.trainer.stopping import stopping_rules as stopping
from tests.support.callbacks import CallAtStep, interrupt
from tests.trainer.checkpoints.checkpoint_runs import RULES, late_bound, trainer_of, weights


class TestFromTheHub:
    """A run that resumes on another machine from a checkpoint that `hub_strategy` has pushed."""

    def pushed(self, hub, folder, **options) -> Path:
        """The downloaded `last-checkpoint` of a run that was killed after three steps and had
        pushed the second."""
        options = {
            "push_to_hub": True,
            "hub_strategy": "checkpoint",
            "hub_always_push": True,
            **options,
        }
        trainer = trainer_of(folder / "model", [CallAtStep(3, interrupt)], **options)
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
        trainer._finish_current_push()
        download = snapshot_download(
            "tester/model", allow_patterns="last-checkpoint/*", local_dir=folder / "elsewhere"
        )
        return Path(download) / "last-checkpoint"

    @pytest.mark.parametrize(
        "names", [{}, {"hide_names": ["anna"], "run_name": "run of anna"}], ids=["", "hidden names"]
    )
    def test_a_resumed_run_equals_an_uninterrupted_run(self, tmp_path, hub, straight, names):
        again = trainer_of(
            tmp_path / "again", resume_from_checkpoint=str(self.pushed(hub, tmp_path, **names))
        )
        again.train()
        assert torch.equal(weights(again), weights(straight))
        assert [row["step"] for row in again.state.log_history] == [
            row["step"] for row in straight.state.log_history
        ]

    def test_methods_that_need_the_original_model_say_that_it_is_missing(self, tmp_path, hub):
        checkpoint = self.pushed(hub, tmp_path, method="scrub")
        with pytest.raises(ValueError, match="from the Hub, where that model is never pushed"):
            trainer_of(tmp_path / "again", method="scrub").train(
                resume_from_checkpoint=str(checkpoint)
            )

    def test_the_best_checked_model_is_missing_with_a_warning(self, tmp_path, hub, monkeypatch):
        """The uninterrupted run goes back to a model from before the checkpoint; this one
        cannot."""
        options = {
            **RULES,
            "stop_when": "forget_loss <= 0",
            "abort_when": f"test_loss > {late_bound(tmp_path / 'losses')}",
        }
        unbroken = trainer_of(tmp_path / "unbroken", **options)
        unbroken.train()
        assert unbroken.stopping["reason"] == "aborted" and unbroken.stopping["restored_step"] == 0
        checkpoint, warned = self.pushed(hub, tmp_path, **options), []
        monkeypatch.setattr(stopping.logger, "warning", warned.append)
        again = trainer_of(tmp_path / "again", **options)
        again.train(resume_from_checkpoint=str(checkpoint))
        assert (
            "the best checked model, of step 0" in warned[0]
            and "goes back to the model of step 2" in warned[0]
        )
        assert (
            again.stopping["step"] == unbroken.stopping["step"]
            and again.stopping["restored_step"] > 1
        )
