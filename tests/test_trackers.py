"""What trackers get through report_to: the numbers of every step, and no name."""

import json
import sys
from types import SimpleNamespace

import pytest
from transformers.integrations import TensorBoardCallback

from tests.tiny import make_trainer, tiny_whisper


class Writer:
    """As much of TensorBoard's SummaryWriter as the callback uses."""

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
    monkeypatch.setattr("transformers.integrations.integration_utils.is_tensorboard_available", lambda: True)
    monkeypatch.setitem(sys.modules, "tensorboardX", SimpleNamespace(SummaryWriter=Writer))  # it need not be installed
    writer = Writer()
    trainer = make_trainer(
        tiny_whisper(), tmp_path, max_steps=4, logging_steps=logging_steps, hide_names=["anna"],
        arguments={"callbacks": [TensorBoardCallback(writer)]},
    )  # fmt: skip
    trainer.train()
    for name in ("forget_loss", "retain_loss", "kept", "rank", "residual", "skipped_steps"):
        steps = [step for step, _ in writer.scalars[f"train/{name}"]]
        assert steps == list(range(logging_steps, 5, logging_steps)), name
    assert writer.texts and not any("anna" in text for text in writer.texts)
