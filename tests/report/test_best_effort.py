"""Nothing that fails after a finished run ends it."""

import json
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from hf_unlearn import UnlearnConfig
from hf_unlearn.report.best_effort import warn_if_not_written
from hf_unlearn.report.environment import emissions
from tests.support.tiny import make_trainer, tiny_whisper


def test_a_failure_after_a_run_is_a_warning(tmp_path, monkeypatch):
    messages = []
    monkeypatch.setattr("hf_unlearn.report.best_effort.logger.warning", messages.append)
    with warn_if_not_written("report.html", tmp_path):
        raise OSError("disk full")
    assert (
        len(messages) == 1
        and "report.html could not be written" in messages[0]
        and "disk full" in messages[0]
    )


def test_a_card_that_fails_leaves_results(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "hf_unlearn.trainer.publishing.publisher.write_card", lambda *_, **__: 1 / 0
    )
    trainer = make_trainer(tiny_whisper(), tmp_path)
    trainer.train()
    trainer.create_model_card()
    assert json.loads((tmp_path / "results.json").read_text())["task"] == "data"


def test_arguments_of_a_class_that_cannot_be_pickled_do_not_cost_the_run(tmp_path):
    @dataclass
    class Mine(UnlearnConfig):
        extra: int = 0

    trainer = make_trainer(tiny_whisper(), tmp_path)
    trainer.args = Mine(output_dir=str(tmp_path), use_cpu=True)
    trainer.save_model()
    assert (tmp_path / "model.safetensors").exists() and not (
        tmp_path / "training_args.bin"
    ).exists()


@pytest.mark.parametrize(
    "text", ["timestamp,kg\n1,2\n", "timestamp,emissions\n1,much\n", "emissions\n\n"]
)
def test_a_broken_file_of_emissions_is_told_as_none(tmp_path, text):
    (tmp_path / "emissions.csv").write_text(text)
    assert emissions(SimpleNamespace(output_dir=tmp_path, report_to=["codecarbon"])) is None
