"""A run killed twenty times at random moments ends with the weights of one that was left alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_run_killed_twenty_times_ends_like_one_left_alone(tmp_path):
    command = [sys.executable, ROOT / "tests" / "invariant" / "killed_run.py", tmp_path, "20", "0"]
    done = subprocess.run(
        list(map(str, command)),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) > 0  # else no kill has hit a checkpoint that was being written
