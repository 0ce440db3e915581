"""What several test files share: the project's folder, and Python in processes of its own."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

ROOT = Path(__file__).parents[2]
# Where the data lies that recipes read: in the project's folder, or beside the project.
REAL_DATA = (ROOT / "data", ROOT.parent / "shared" / "data")
TWO_PROCESSES = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def real_data(name: str) -> Path:
    """The folder of real data with this name. Without it, the test is skipped."""
    folders = [folder / name for folder in REAL_DATA if (folder / name).is_dir()]
    if not folders:
        pytest.skip(f"no real data: there is no data/{name}")
    return folders[0]


def run_python(
    *arguments: object, check: bool = True, timeout: int = 300, **options
) -> subprocess.CompletedProcess:
    """Runs Python with these arguments in the project's folder.

    Args:
        check: fail with what it has written to stderr where its exit code is not 0.
    """
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        **{"cwd": ROOT, "capture_output": True, "text": True, "timeout": timeout, **options},
    )
    assert not check or done.returncode == 0, done.stderr[-5000:]
    return done


def launch(*arguments: object, two_processes: bool = False) -> subprocess.CompletedProcess:
    """Runs a script by `accelerate launch`; two processes by torchrun, because accelerate starts
    only one on a CPU. `forks.run_script` is much faster where the launcher is not what is tested.
    """
    launcher = TWO_PROCESSES if two_processes else ("-m", "accelerate.commands.launch")
    return run_python(*launcher, *arguments)


def assert_drawn(picture: Path) -> None:
    """A picture of a figure's size that is not blank."""
    pixels = np.asarray(PIL.Image.open(picture).convert("L"))
    assert min(pixels.shape) >= 200 and np.ptp(pixels) > 100, (pixels.shape, np.ptp(pixels))
