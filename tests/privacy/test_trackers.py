"""Trackers (`report_to`) get the numbers of each step, and no names."""

import json
import os
import sys
from types import SimpleNamespace

import pytest
from peft import LoraConfig, get_peft_model
from transformers.integrations import TensorBoardCallback

from hf_unlearn import UnlearnConfig
from hf_unlearn.privacy.trackers import WANDB_PRIVATE, refuse_names_in_trackers
from tests.support.tiny import FORGET, make_trainer, tiny_whisper


class Writer:
    """The part of TensorBoard's SummaryWriter that the callback uses."""

    def __init__(self):
        self.scalars, self.texts = {}, []

    def add_scalar(self, name, value, step):
        self.scalars.setdefault(name, []).append((step, value))

    def add_text(self, name, text):
        self.texts.append(text)

    def add_hparams(self, settings, metrics):
        self.texts.append(json.dumps(settings))

    def flush(self):
        pass

    close = flush


@pytest.mark.parametrize("logging_steps", [1, 2])
def test_every_steps_numbers_reach_tensorboard(tmp_path, monkeypatch, logging_steps):
    monkeypatch.setattr(
        "transformers.integrations.integration_utils.is_tensorboard_available", lambda: True
    )
    # TensorBoard need not be installed
    monkeypatch.setitem(sys.modules, "tensorboardX", SimpleNamespace(SummaryWriter=Writer))
    writer = Writer()
    trainer = make_trainer(
        tiny_whisper(),
        tmp_path / "anna",
        max_steps=4,
        logging_steps=logging_steps,
        hide_names=["anna"],
        stop_when="forget_loss >= 100",
        check_steps=2,
        arguments={"callbacks": [TensorBoardCallback(writer)], "eval_dataset": {"forget": FORGET}},
    )
    trainer.train()
    for name in ("forget_loss", "retain_loss", "kept", "rank", "residual", "skipped_steps"):
        steps = [step for step, _ in writer.scalars[f"train/{name}"]]
        assert steps == list(range(logging_steps, 5, logging_steps)), name
    assert [step for step, _ in writer.scalars["train/check_forget_loss"]] == [0, 2, 4]
    assert writer.texts and not any("anna" in text for text in writer.texts)
    # in place of the output folder's name
    assert any("hidden" in text for text in writer.texts)


def told(tmp_path, model=None, **options):
    """The arguments that wandb would get from a run that forgets anna."""
    args = UnlearnConfig(
        str(tmp_path), report_to=["wandb"], hide_names=["anna"], use_cpu=True, **options
    )
    refuse_names_in_trackers(args, model or tiny_whisper())
    return args.to_dict()


def test_names_that_cannot_be_replaced_are_refused(tmp_path, monkeypatch):
    # Removed here, and again after the test.
    for name in WANDB_PRIVATE:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    with pytest.raises(ValueError, match="run_name contains 'without_anna', .* and wandb would"):
        told(tmp_path, run_name="without_anna")
    adapted = get_peft_model(tiny_whisper(), LoraConfig(target_modules=["q_proj"]))
    adapted.active_peft_config.base_model_name_or_path = "me/anna"
    with pytest.raises(ValueError, match="the model's configuration contains 'me/anna'"):
        told(tmp_path, adapted)
    split = {"forget": [], "test_Anna": []}
    with pytest.raises(ValueError, match="a split of eval_dataset contains 'test_Anna'"):
        refuse_names_in_trackers(
            UnlearnConfig(str(tmp_path), report_to=["wandb"], hide_names=["anna"]),
            tiny_whisper(),
            split,
        )
    with monkeypatch.context() as changed:
        # secrets are not sent to trackers
        changed.setenv("WANDB_API_KEY", "anna")
        changed.setenv("WANDB_NOTES", "without Anna.")
        with pytest.raises(ValueError, match="environment's WANDB_NOTES contains 'without Anna.'"):
            told(tmp_path)
    assert not WANDB_PRIVATE.keys() & os.environ.keys()
    assert (
        told(tmp_path, run_name="without_anna", name_forgotten=True)["run_name"] == "without_anna"
    )
    told(tmp_path, run_name="quiet")
    # wandb reads them when it starts
    assert WANDB_PRIVATE.items() <= os.environ.items()
