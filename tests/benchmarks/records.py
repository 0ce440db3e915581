"""The rows of `results.csv`, which every benchmark appends to and `plot.py` reads."""

import csv
import datetime
import platform
import subprocess
from pathlib import Path

import torch
import transformers

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER / "results.csv"
COLUMNS = tuple(
    "run date commit machine torch transformers model tuning precision checkpointing seconds k "
    "method step_s peak_gb failure".split()
)
# The method that all others are compared with.
BASELINE = "gradient_difference"
# The value of "tuning" in rows that measure single operations instead of training steps.
KERNEL = "kernel"
# The same for whole runs of recipes and for reading data: step_s is then the time of all, and k for
# data the number of rows.
WHOLE_RUN, DATA = "whole run", "data"
NO_STEPS = (KERNEL, WHOLE_RUN, DATA)


def run_columns() -> dict[str, str]:
    """The columns that all rows of a run share: when, at which commit, where, and with what."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return {
        "run": now.strftime("%Y%m%d-%H%M%S"),
        "date": now.strftime("%Y-%m-%d"),
        "commit": current_commit(),
        "machine": machine_name(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def append(row: dict[str, object]) -> None:
    """Appends a row; columns that it lacks stay empty."""
    is_new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(row)


def read() -> list[dict[str, str]]:
    """All rows, in the order in which they were measured."""
    with RESULTS.open(newline="") as file:
        return list(csv.DictReader(file))


def current_commit() -> str:
    """The short hash of the commit, with "+changes" if tracked files other than results differ."""
    results = ":(exclude,top)tests/benchmarks/results.*"
    changes = _git("status", "--porcelain", "--untracked-files=no", ":/", results)
    return _git("rev-parse", "--short", "HEAD") + ("+changes" if changes else "")


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, cwd=FOLDER, capture_output=True, text=True).stdout.strip()


def machine_name() -> str:
    """The name of the GPU, or the kind of CPU and the number of threads."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU {platform.machine()}, {torch.get_num_threads()} threads"


def synchronize() -> None:
    """Waits until the GPU, if there is one, has done its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
