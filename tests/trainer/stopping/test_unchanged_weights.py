"""Steps that change nothing are errors, as no steps are."""

from pathlib import Path

import pytest
import torch
from transformers import (
    TrainerCallback,
)

from tests.support.tiny import tiny_whisper
from tests.trainer.stopping.ended_runs import trainer_of


class TestUnchangedWeights:
    """Steps that change nothing are as good as none."""

    OPTIONS = {"max_steps": 2, "lr_scheduler_type": "constant"}

    def refused(self, trainer, reason):
        with pytest.raises(ValueError, match=f"changed the weights, so nothing .*{reason}"):
            trainer.train()
        for publish in (trainer.create_model_card, trainer.push_to_hub):
            with pytest.raises(ValueError, match="no optimizer step changed the weights"):
                publish()
        assert not (Path(trainer.args.output_dir) / "README.md").exists()

    @pytest.mark.parametrize("method", ["orthograd", "gradient_ascent"])
    def test_a_learning_rate_that_stays_0(self, tmp_path, method):
        trainer = trainer_of(tmp_path, [ZeroRate()], method=method, **self.OPTIONS)
        self.refused(trainer, "the learning rate was 0 in every step")

    def test_an_optimizer_of_another_model(self, tmp_path):
        trainer = trainer_of(tmp_path, **self.OPTIONS)
        trainer.optimizer = torch.optim.SGD(tiny_whisper().parameters(), lr=1.0)
        self.refused(trainer, "the optimizer has other parameters")

    def test_steps_below_the_weights_precision(self, tmp_path):
        options = {**self.OPTIONS, "learning_rate": 1e-30, "optim": "sgd"}
        trainer = trainer_of(tmp_path, **options)
        for p in trainer.model.parameters():
            # a bias of 0 would change
            p.data += 0.1
        self.refused(trainer, "too small")

    def test_a_run_whose_gradients_are_0_is_refused(self, tmp_path):
        trainer = trainer_of(tmp_path, **self.OPTIONS)
        trainer.add_callback(ZeroGradients())
        self.refused(trainer, "all gradients were 0")

    def test_one_change_in_one_tensor_is_enough(self, tmp_path):
        trainer = trainer_of(tmp_path, **self.OPTIONS)
        for p in list(trainer.model.parameters())[1:]:
            p.requires_grad_(False)
        trainer.train()
        trainer.create_model_card()

    def test_what_can_be_known_is_refused_at_construction(self, tmp_path):
        with pytest.raises(ValueError, match="learning_rate is 0"):
            trainer_of(tmp_path, learning_rate=0.0)
        with pytest.raises(ValueError, match="max_steps is 1, but with warmup_steps"):
            trainer_of(tmp_path, max_steps=1, warmup_steps=0.1, lr_scheduler_type="linear")
        trainer_of(tmp_path, learning_rate=0.0, forget=None, retain=None)


class ZeroRate(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        for group in kwargs["optimizer"].param_groups:
            group["lr"] = 0.0


class ZeroGradients(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        for p in kwargs["model"].parameters():
            if p.grad is not None:
                p.grad.zero_()
