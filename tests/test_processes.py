"""Two processes take the step that one process takes on the same samples."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
SCRIPT = """
import copy, sys, torch
from tests.tiny import make_trainer, tiny_whisper, utterances
from transformers import set_seed

set_seed(0)
model, (folder, granularity, method) = tiny_whisper(), sys.argv[1:]
before = [p.detach().clone() for p in model.parameters()]
size = int(__import__("os").environ.get("WORLD_SIZE", 1))
trainer = make_trainer(model, folder, forget=utterances(4, seed=1), retain=utterances(6, seed=2), method=method,
                       granularity=granularity, per_device_train_batch_size=4 // size,
                       per_device_retain_batch_size=6 // size)
trainer.train()
step = torch.cat([(a - b).flatten() for a, b in zip(before, model.parameters())])
torch.save(step, f"{folder}/step{size}_{trainer.args.process_index}.pt")
"""


@pytest.mark.parametrize(
    "granularity, method", [("parameter", "orthograd"), ("model", "orthograd"), ("model", "gradient_difference")]
)
def test_two_processes_are_one(tmp_path, granularity, method):
    script = tmp_path / "step.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for start in (["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"], []):
        done = subprocess.run([sys.executable, *start, script, tmp_path, granularity, method], env=environment,
                              cwd=ROOT, capture_output=True, text=True, timeout=300)  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
    one, first, second = (torch.load(tmp_path / f"step{name}.pt") for name in ("1_0", "2_0", "2_1"))
    assert torch.equal(first, second)
    assert (first - one).norm() <= 1e-4 * one.norm()
