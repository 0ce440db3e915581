"""A run killed twenty times at random moments ends with the weights of one that was left alone."""

import pytest

from tests.support.forks import run_script
from tests.support.helpers import ROOT

pytestmark = pytest.mark.slow


def test_a_run_killed_twenty_times_ends_like_one_left_alone(tmp_path):
    script = ROOT / "tests" / "invariant" / "killed_run.py"
    done = run_script(script, tmp_path, 20, 0, timeout=500)
    # At least one kill has hit a checkpoint while it was written.
    assert int(done.stdout) > 0
