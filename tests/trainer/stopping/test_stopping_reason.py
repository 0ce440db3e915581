"""A run reports why it stopped."""

import os
import signal

import pytest

from tests.support.callbacks import CallAtStep, interrupt
from tests.trainer.stopping.ended_runs import TARGET, MyOwnRule, trainer_of


class TestReason:
    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            ({"max_steps": 2}, "max_steps"),
            ({"max_steps": -1, "num_train_epochs": 2}, "num_train_epochs"),
            ({"max_steps": 5, "callbacks": [MyOwnRule(2)]}, "MyOwnRule"),
            ({"max_steps": 2, "callbacks": [MyOwnRule(2)]}, "max_steps"),
            ({"max_steps": 2, "stop_when": "forget_loss >= 1000", "check_steps": 1}, "max_steps"),
            ({"max_steps": 9, **TARGET, "check_steps": 2}, "target reached"),
        ],
        ids=["steps", "epochs", "callback", "both", "rule not met", "rule met"],
    )
    def test_the_reason_of_each_kind_of_end(self, tmp_path, options, reason):
        trainer = trainer_of(tmp_path, **options)
        assert trainer.stopping["reason"] == "not trained"
        trainer.train()
        assert trainer.stopping["reason"] == reason and trainer.stopping["step"] == 2
        assert "restored_step" not in trainer.stopping

    def test_an_error_and_a_signal(self, tmp_path):
        trainer = trainer_of(tmp_path / "a", [CallAtStep(1, interrupt)], max_steps=3)
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
        assert trainer.stopping["reason"] == "interrupted by KeyboardInterrupt"
        trainer = trainer_of(
            tmp_path / "b",
            [CallAtStep(1, lambda control: os.kill(os.getpid(), signal.SIGTERM))],
            max_steps=3,
        )
        with pytest.raises(SystemExit):
            trainer.train()
        assert trainer.stopping["reason"] == "SIGTERM"

    def test_during_training_the_reason_is_that_it_is_in_progress(self, tmp_path):
        seen = []
        trainer = trainer_of(
            tmp_path,
            [CallAtStep(1, lambda control: seen.append(trainer.stopping["reason"]))],
            max_steps=2,
        )
        trainer.train()
        assert seen == ["training in progress"]
