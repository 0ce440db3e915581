"""A run killed twenty times at random moments ends with the weights of one that was left alone."""

import os

import pytest

from tests.helpers import ROOT, run_python


@pytest.mark.slow
def test_a_run_killed_twenty_times_ends_like_one_left_alone(tmp_path):
    script = ROOT / "tests" / "invariant" / "killed_run.py"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = run_python(script, tmp_path, 20, 0, env=environment, timeout=500)
    # At least one kill has hit a checkpoint while it was written.
    assert int(done.stdout) > 0
