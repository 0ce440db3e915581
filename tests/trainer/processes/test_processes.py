"""Two processes take the step that one process takes on the same samples, evaluate to the same
numbers, and fail with one message."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.forks import NEXT_PROCESS, run_script
from tests.trainer.processes.process_cases import CASES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Loads what a case saved: in one process, in the first of two, in the second of two."""
    folder = tmp_path_factory.mktemp("processes")
    for processes in (2, 1):
        script = Path(__file__).with_name("process_cases.py")
        run_script(script, folder, processes=processes, timeout=900)

    def load(name):
        if name == "randomness":
            return [torch.load(folder / f"randomness.{process}.pt") for process in (0, 1)]
        if name == "resumed":
            return torch.load(folder / "resumed.pt")
        if name.startswith("elsewhere"):
            return [
                load_file(folder / which / "model.safetensors")
                for which in (name, f"{name}_resumed")
            ]
        if name == "accelerate":
            return [torch.load(folder / f"accelerate.{processes}.pt") for processes in (1, 2)]
        return [torch.load(folder / f"{name}.{which}.pt") for which in ("1.0", "2.0", "2.1")]

    return load


@pytest.mark.parametrize("name", CASES)
def test_two_processes_take_the_steps_of_one(results, name):
    one, first, second = results(name)
    assert torch.equal(first["step"], second["step"])
    assert one["step"].norm() > 0 and torch.isfinite(one["step"]).all()
    near, logged = (2e-2, 1e-2) if "bfloat16" in name else (1e-5, 1e-4)
    assert (first["step"] - one["step"]).norm() <= near * one["step"].norm()
    for row, expected in zip(first["logs"], one["logs"], strict=True):
        for key, value in expected.items():
            assert row[key] == (value if value is None else pytest.approx(value, rel=logged)), key


def test_with_randomness_all_passes_and_processes_see_the_networks_that_were_drawn(results):
    """The step is orthogonal to the gradients of both processes' samples, each with the dropout
    that its process drew."""
    both = results("randomness")
    step = both[0]["step"]
    assert torch.equal(step, both[1]["step"])
    drawn, evaluated = (
        torch.stack([row for one in both for row in one["rows"][on]]) for on in (True, False)
    )
    assert cosines(step, drawn).max() < 1e-5 < 1e-3 < cosines(step, evaluated).max()


def cosines(step: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return (rows @ step).abs() / (rows.norm(dim=1) * step.norm())


def test_evaluation_with_generation_counts_every_sample_once(results):
    one, first, second = results("evaluation")
    assert len(one) == 2 and first == second
    for row, expected in zip(first, one):
        assert expected["eval_test_samples"] == 7
        assert row.pop("eval_test_loss") == pytest.approx(expected.pop("eval_test_loss"), rel=1e-5)
        assert row == expected


def test_a_sharded_run_is_saved_whole_and_resumes_bit_for_bit(results):
    (straight, resumed), losses = results("resumed").values()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    # the step that aborts is evaluated too
    assert losses[0] == losses[1] and len(losses[0]) == 3


@pytest.mark.parametrize("name", ["elsewhere", "elsewhere_sharded"])
def test_one_process_resumes_a_run_of_two(results, name):
    straight, resumed = results(name)
    for key, weight in straight.items():
        torch.testing.assert_close(resumed[key], weight, rtol=1e-4, atol=1e-5)


def test_a_model_sharded_by_accelerate_takes_the_same_steps(results):
    one, two = results("accelerate")
    assert (two["step"] - one["step"]).norm() <= 1e-4 * one["step"].norm() > 0
    assert (
        two["losses"] == pytest.approx(one["losses"], rel=1e-5)
        and one["losses"][0] != one["losses"][1]
    )


FAILING = """
import os, sys, torch
from transformers import set_seed
from tests.support.tiny import make_trainer, tiny_whisper, utterances
set_seed(0)

trainer = None

class Forget(list):
    def __getitem__(self, index):
        # The trainer reads some samples while it is made.
        if os.environ["RANK"] == "1" and trainer and trainer.state.global_step >= 2:
            {fault}
        return super().__getitem__(index)

trainer = make_trainer(
    tiny_whisper(),
    sys.argv[1],
    forget=Forget(utterances(4, seed=1)),
    max_steps=9,
    per_device_train_batch_size=2,
    per_device_retain_batch_size=2,
    save_strategy="steps",
    save_steps=1,
)
trainer.train()
"""


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            "raise FileNotFoundError('speaker.flac')",
            "process 1 has failed, so the run ends: FileNotFoundError: speaker.flac",
        ),
        ("os.kill(os.getpid(), 9)", "Connection"),
    ],
    ids=["error", "killed"],
)
def test_a_failing_process_ends_the_run_with_its_reason(tmp_path, fault, message):
    script = tmp_path / "failing.py"
    script.write_text(FAILING.format(fault=fault))
    done = run_script(script, tmp_path / "out", processes=2, check=False)
    assert done.returncode != 0 and message in done.stderr.split(NEXT_PROCESS)[0]
    assert (tmp_path / "out" / "checkpoint-1" / "trainer_state.json").exists()
