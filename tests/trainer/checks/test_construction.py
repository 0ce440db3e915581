"""Settings that no run could work with are refused when the trainer is made."""

from types import SimpleNamespace

import pytest
import torch

from hf_unlearn import UnlearnConfig, UnlearnTrainer
from hf_unlearn.methods import build_method
from hf_unlearn.trainer.checks.data_checks import check_data
from tests.support.tiny import FORGET, RETAIN, make_trainer, tiny_whisper


@pytest.mark.parametrize(
    "options, message",
    [
        ({"retain": None}, "retain_dataset is missing"),
        ({"retain": []}, "retain_dataset is empty"),
        ({"arguments": {"train_dataset": FORGET}}, "alias of forget_dataset"),
        ({"method": "magic"}, "must be one of orthograd, orthograd_mean"),
        ({"alpha": 1.0}, r"alpha is 1.0, but must be a number in \[0, 1\)"),
        ({"check_steps": 2.5}, "check_steps is 2.5, but must be a whole number, at least 1"),
        ({"max_drift": "little"}, "max_drift is 'little', but must be a number above 0"),
        ({"granularity": "layer"}, "must be 'parameter' or 'model'"),
        ({"per_device_retain_batch_size": 0}, "per_device_retain_batch_size is 0"),
        ({"label_smoothing_factor": 0.1}, "averages over the tokens"),
        ({"torch_compile": True}, "torch_compile does not work"),
        (
            {"stop_when": "wer is high", "arguments": {"eval_dataset": {"forget": FORGET}}},
            "cannot read the rule",
        ),
        (
            {"stop_when": "other_wer > 3", "arguments": {"eval_dataset": {"forget": FORGET}}},
            "names no split",
        ),
        ({"stop_when": "forget_wer > 3"}, "to be a dict of splits"),
    ],
)
def test_impossible_settings_are_refused_at_construction(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(tiny_whisper(), tmp_path, **options)


def test_a_compiled_model_is_refused_at_construction(tmp_path):
    with pytest.raises(ValueError, match="as it is before torch.compile"):
        make_trainer(torch.compile(tiny_whisper()), tmp_path)


def test_fewer_retain_samples_than_processes_are_refused(tmp_path):
    args = SimpleNamespace(world_size=2)
    with pytest.raises(ValueError, match="has 1 samples, but there are 2 processes"):
        check_data(
            build_method(UnlearnConfig(str(tmp_path), method="gradient_difference", use_cpu=True)),
            FORGET,
            RETAIN[:1],
            args,
        )


def test_forget_dataset_is_required(tmp_path):
    """To train, not to evaluate."""
    args = UnlearnConfig(str(tmp_path), use_cpu=True)
    trainer = UnlearnTrainer(model=tiny_whisper(), args=args, retain_dataset=RETAIN)
    with pytest.raises(ValueError, match="forget_dataset is missing"):
        trainer.train()
