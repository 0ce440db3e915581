"""Equal configurations give equal models, through the real command line of a recipe."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.support.forks import run_script
from tests.support.helpers import ROOT
from tests.support.tiny_speech import write_noise

pytestmark = pytest.mark.slow

RECIPE = ROOT / "recipes" / "whisper_librispeech" / "unlearn.py"
CONFIG = """
speaker_column: speaker
train_split: train
test_split: test
forget_speakers: [ann]
held_out: 0
retain_size: 8
gold: none
chunk_length: 1
max_target_positions: 8
d_model: 16
layers: 1
heads: 2
train_steps: 2
train_batch_size: 4
method: orthograd
per_device_train_batch_size: 8
per_device_retain_batch_size: 4
max_eval_samples: 2
max_steps: 3
learning_rate: 1.0e-3
optim: sgd
disable_tqdm: true
use_cpu: true
report_to: none
save_strategy: steps
save_steps: 1
"""
EQUAL = {
    "accumulation": (1, "--per_device_train_batch_size 2 --gradient_accumulation_steps 4"),
    "two processes": (
        2,
        "--per_device_train_batch_size 4 --per_device_retain_batch_size 2",
    ),
    "checkpointing": (1, "--gradient_checkpointing true"),
}


def unlearn(folder: Path, *flags: str | Path, processes: int = 1) -> torch.Tensor:
    """Runs the recipe; returns the weights that it saves to the `--output_dir` in `flags`."""
    arguments = (RECIPE, folder / "config.yaml", "--dataset", folder / "speech", *flags)
    run_script(*arguments, processes=processes, timeout=500)
    return weights_in(Path(flags[list(flags).index("--output_dir") + 1]))


def weights_in(folder: Path) -> torch.Tensor:
    """All weights of a saved model, in one vector."""
    tensors = load_file(folder / "model.safetensors")
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Speech of three speakers, in noise, and the recipe's configuration."""
    folder, chance = tmp_path_factory.mktemp("invariant"), np.random.default_rng(0)
    (folder / "config.yaml").write_text(CONFIG)
    write_noise(
        folder / "speech",
        (
            (
                f"{speaker}{n}.flac",
                speaker,
                " ".join(chance.choice(["one", "two", "three", "four"], 1 + n % 3)),
                "train" if n < 8 else "test",
            )
            for speaker in ("ann", "bob", "cid")
            for n in range(10)
        ),
    )
    return folder


@pytest.fixture(scope="module")
def plain(folder) -> torch.Tensor:
    return unlearn(folder, "--output_dir", folder / "plain")


@pytest.mark.parametrize("name", EQUAL)
def test_equal_configurations_give_equal_models(folder, plain, name):
    processes, flags = EQUAL[name]
    original = folder / "plain" / "original"
    arguments = ("--model", original, "--output_dir", folder / name, *flags.split())
    got = unlearn(folder, *arguments, processes=processes)
    before = weights_in(original)
    assert (got - plain).norm() <= 1e-4 * (plain - before).norm() > 0


def test_a_resumed_run_is_straight_bit_for_bit(folder, plain):
    resumed = folder / "resumed"
    shutil.copytree(folder / "plain" / "checkpoint-1", resumed / "checkpoint-1")
    shutil.copytree(folder / "plain" / "checkpoint-2", resumed / "checkpoint-2")
    # killed while it was written
    (resumed / "checkpoint-2" / "trainer_state.json").write_text("{")
    flags = [
        "--model",
        folder / "plain" / "original",
        "--output_dir",
        resumed,
        "--resume_from_checkpoint",
        "true",
    ]
    assert torch.equal(unlearn(folder, *flags), plain)
