"""Runs with stopping rules end in the same way after any interruption."""

import pytest
import torch

from hf_unlearn.report.file_names import BEST
from tests.support.callbacks import CallAtStep, interrupt
from tests.trainer.checkpoints.checkpoint_runs import RULES, late_bound, trainer_of, weights


class TestStoppingRules:
    def ended(self, folder, **options) -> dict:
        """How a run ends that is interrupted after each step in turn, which must be how the
        uninterrupted run ends."""
        options = {**RULES, **options}
        straight = trainer_of(folder / "straight", **options)
        straight.train()
        run = folder / "run"
        for step in range(1, straight.state.global_step + 1):
            trainer = trainer_of(
                run, [CallAtStep(step, interrupt)], resume_from_checkpoint="auto", **options
            )
            with pytest.raises(KeyboardInterrupt):
                trainer.train()
        # the second attempt finds that the run is over
        for _ in range(2):
            trainer = trainer_of(run, resume_from_checkpoint="auto", **options)
            trainer.train()
            assert torch.equal(weights(trainer), weights(straight))
            assert trainer.stopping == straight.stopping
        return straight.stopping

    def test_the_target_is_reached_as_without_the_interruption(self, tmp_path):
        report = self.ended(tmp_path, stop_when="forget_loss >= 4.25")
        assert report["reason"] == "target reached" and 1 < report["step"] < 7

    @pytest.mark.parametrize("bound", [None, "original + 0.02"], ids=["number", "original"])
    def test_the_abort_is_as_without_the_interruption(self, bound, tmp_path):
        bound = bound or late_bound(tmp_path / "losses")
        report = self.ended(
            tmp_path, stop_when="forget_loss >= 1000", abort_when=f"test_loss > {bound}"
        )
        assert report["reason"] == "aborted" and 1 < report["restored_step"] < report["step"] < 7


def test_the_best_model_of_a_later_step_is_forgotten_on_resume(tmp_path):
    """A run resumes from a checkpoint before its best model, which belongs to steps that have not
    happened yet."""
    options = {**RULES, "abort_when": "test_loss > 1000"}
    trainer_of(tmp_path, **options).train()
    trainer = trainer_of(tmp_path, [CallAtStep(3, interrupt)], **options)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(resume_from_checkpoint=f"{tmp_path}/checkpoint-2")
    kept, saved = tmp_path / BEST, tmp_path / "checkpoint-2" / BEST
    assert kept.read_bytes() == saved.read_bytes()
