"""DeepSpeed takes the steps that plain PyTorch takes: its engine accumulates all backward passes of
a step, and steps once."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hf_unlearn import UnlearnConfig
from hf_unlearn.methods import METHODS, build_method
from hf_unlearn.trainer.checks.compatibility import check_deepspeed
from hf_unlearn.trainer.setup import deepspeed
from tests.support.helpers import ROOT
from tests.support.tiny import make_trainer, tiny_whisper
from tests.trainer.processes.deepspeed_cases import CASES

pytestmark = pytest.mark.slow

EDITING = [
    name
    for name in METHODS
    if build_method(UnlearnConfig("out", method=name, use_cpu=True)).edits_gradient
]


def config(tmp_path, method: str) -> UnlearnConfig:
    return UnlearnConfig(str(tmp_path), method=method, use_cpu=True)


@pytest.mark.parametrize("name", EDITING)
def test_methods_that_edit_gradients_are_refused(tmp_path, name):
    args = config(tmp_path, name)
    with pytest.raises(
        ValueError, match=f"DeepSpeed does not work with method='{name}': .*Use FSDP2"
    ):
        check_deepspeed(build_method(args), args, SimpleNamespace(zero_stage=2))


def test_zero_stage_3_is_refused(tmp_path):
    args = config(tmp_path, "finetune")
    with pytest.raises(
        ValueError, match="ZeRO stage 3 does not work with method='finetune': .*Use FSDP2"
    ):
        check_deepspeed(build_method(args), args, SimpleNamespace(zero_stage=3))
    check_deepspeed(build_method(args), args, SimpleNamespace(zero_stage=2))


class Engine:
    """The part of DeepSpeed's engine that the trainer uses, on plain PyTorch."""

    def __init__(self, optimizer):
        self.optimizer, self.boundary, self.calls = optimizer, None, []

    def set_gradient_accumulation_boundary(self, is_boundary: bool) -> None:
        self.boundary = is_boundary

    def backward(self, loss, scale_wrt_gas):
        assert not scale_wrt_gas
        self.calls.append(self.boundary)
        loss.backward()

    def step(self):
        assert self.calls[-1] and not any(self.calls[:-1])
        self.calls.append("step")
        self.optimizer.step()
        self.optimizer.zero_grad()

    def fp16_enabled(self):
        return False


@pytest.mark.parametrize(
    ("method", "calls"),
    [
        ("gradient_difference", [False, False, True]),
        ("gradient_ascent", [False, True]),
        ("finetune", [True]),
    ],
)
def test_the_engine_is_told_which_pass_is_the_last(tmp_path, method, calls):
    def trained(with_engine: bool):
        torch.manual_seed(0)
        model = tiny_whisper()
        trainer = make_trainer(
            model,
            tmp_path,
            method=method,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2,
        )
        if not with_engine:
            trainer.train()
            return model, None
        trainer.training_run.checked_model.samples.engine_choice.one_by_one = False
        trainer.is_deepspeed_enabled = True
        # the real one asks accelerate for DeepSpeed's precision
        trainer._prepare_inputs = dict
        trainer.deepspeed = engine = Engine(trainer.optimizer)
        batches, _ = trainer.get_batch_samples(
            iter(trainer.get_train_dataloader()), 2, trainer.args.device
        )
        for n, batch in enumerate(batches):
            trainer.accelerator.gradient_state._set_sync_gradients(n == 1)
            trainer.training_step(model, batch)
        return model, engine

    (plain, _), (model, engine) = trained(False), trained(True)
    assert engine.calls == [*calls, "step"]
    for a, b in zip(plain.parameters(), model.parameters()):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("finite", [True, False])
def test_a_gradient_that_is_not_finite_is_discarded(finite):
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.grad = torch.ones(3) if finite else torch.full((3,), torch.nan)
    engine = Engine(torch.optim.SGD([parameter], lr=0.5))
    engine.calls = [True]
    assert deepspeed.take_step(engine, [parameter], finite) is finite
    assert (
        torch.equal(parameter.detach(), torch.full((3,), 0.5 if finite else 1.0))
        and parameter.grad is None
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    pytest.importorskip(
        "deepspeed", reason="pip install deepspeed (DS_BUILD_OPS=0 where there is no CUDA)"
    )
    folder = tmp_path_factory.mktemp("deepspeed")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for start in ([], ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]):
        script = Path(__file__).with_name("deepspeed_cases.py")
        command = [sys.executable, *start, str(script), str(folder)]
        done = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=500
        )
        assert done.returncode == 0, done.stderr[-5000:]
    return folder


@pytest.mark.parametrize("name", CASES)
def test_two_processes_with_deepspeed_take_the_steps_of_one_without(results, name):
    one, first, second = (
        torch.load(results / f"{name}.{which}.pt") for which in ("1.0", "2.0", "2.1")
    )
    assert torch.equal(first["step"], second["step"]) and one["step"].norm() > 0
    assert (first["step"] - one["step"]).norm() <= 1e-5 * one["step"].norm()
    for row, expected in zip(first["logs"], one["logs"], strict=True):
        assert row == {
            key: value if value is None else pytest.approx(value, rel=1e-3)
            for key, value in expected.items()
        }


def test_a_run_with_deepspeed_resumes_bit_for_bit(results):
    saved = torch.load(results / "resumed.pt")
    assert all(
        torch.equal(saved["straight"][name], saved["resumed"][name]) for name in saved["straight"]
    )
    (before, after), (first, _), (_, resumed) = (
        saved[f"{run} losses"] for run in ("straight", "first", "resumed")
    )
    assert before == first and after == resumed != before
