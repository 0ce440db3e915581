"""The script for a GPU: its parts exist, fit into ten minutes, and are ended in time."""

import os
import subprocess
import sys

import pytest

from tests.benchmarks import on_gpu
from tests.support.helpers import ROOT


def test_all_parts_exist_and_fit_into_ten_minutes():
    assert sum(seconds for _, seconds in on_gpu.PARTS.values()) <= 600
    commands = [command for command, _ in on_gpu.PARTS.values()] + list(on_gpu.DRY.values())
    assert set(on_gpu.DRY) == set(on_gpu.PARTS)
    for command in commands:
        words = command.split()
        assert (ROOT / words[-1 if words[0] == "-m" else 0]).exists(), command


def test_a_part_that_takes_too_long_is_ended():
    assert on_gpu.run("-c while(True):pass", 0.5) is None
    assert on_gpu.run("-c raise(SystemExit(3))", 60) == 3


@pytest.mark.slow
def test_the_kernels_are_measured_to_the_end():
    """Elsewhere than on a GPU the script is tiny and appends no rows."""
    command = [sys.executable, *on_gpu.DRY["kernels"].split()]
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
