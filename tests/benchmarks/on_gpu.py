"""Runs everything that needs a GPU in a limited time: the tests of the kernels, the benchmarks in
order of worth, and as much of the test suite as there is time for.

    .venv/bin/python tests/benchmarks/on_gpu.py --minutes 10
    .venv/bin/python tests/benchmarks/on_gpu.py --dry    # on a CPU: tiny, and no tests but a list

Each part gets its seconds below, or its share of what is left if the time is short. Seconds that a
part does not need go to the next ones. Rows are appended to `results.csv` as they are measured, so
a part that is cut off keeps those that it has. The exit code is 1 if a part failed; a part that was
cut off has not failed.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = "tests/benchmarks"
# name -> command and seconds
PARTS = {
    "tests of the kernels": ("-m pytest -q -n 4 tests/ops", 60),
    "training steps": (f"{BENCHMARKS}/bench.py --suite cuda --rounds 1 --limit {{seconds}}", 210),
    "kernels": (f"{BENCHMARKS}/bench_kernels.py", 50),
    "ways to inner products": (f"{BENCHMARKS}/bench_ways.py", 50),
    "all tests": ("-m pytest -q -n auto --dist loadfile tests", 220),
}
DRY = {
    "tests of the kernels": "-m pytest -q --collect-only tests/ops",
    "training steps": f"{BENCHMARKS}/bench.py --suite cuda --rounds 1 --steps 1 --dry",
    "kernels": f"{BENCHMARKS}/bench_kernels.py",
    "ways to inner products": f"{BENCHMARKS}/bench_ways.py --dry",
    "all tests": "-m pytest -q --collect-only tests",
}


def run(command: str, seconds: float) -> int | None:
    """The exit code of a Python command; None if it was ended after the given time, together with
    the processes that it had started."""
    process = subprocess.Popen([sys.executable, *command.split()], cwd=ROOT, start_new_session=True)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--dry", action="store_true", help="tiny, with no limit; no rows")
    arguments = parser.parse_args()
    end, outcomes = time.monotonic() + 60 * arguments.minutes, {}
    planned = [seconds for _, seconds in PARTS.values()]
    for number, (name, (command, seconds)) in enumerate(PARTS.items()):
        left = end - time.monotonic()
        limit = left * seconds / sum(planned[number:])
        command = DRY[name] if arguments.dry else command.format(seconds=round(0.7 * limit))
        print(f"==== {name}: {command}", flush=True)
        start = time.monotonic()
        code = run(command, 3600 if arguments.dry else max(1.0, limit))
        state = {0: "done", None: "cut off"}.get(code, f"failed with exit code {code}")
        outcomes[name] = f"{state} after {time.monotonic() - start:.0f} s"
    print(*(f"{name}: {outcome}" for name, outcome in outcomes.items()), sep="\n")
    sys.exit(any("failed" in outcome for outcome in outcomes.values()))


if __name__ == "__main__":
    main()
