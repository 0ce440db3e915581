"""Measures whole runs of recipes, from the command to the report: orthograd and gradient
difference.

    .venv/bin/python tests/benchmarks/bench_runs.py --recipes demo
    .venv/bin/python tests/benchmarks/bench_runs.py --recipes whisper --model openai/whisper-tiny.en
    .venv/bin/python tests/benchmarks/bench_runs.py --beside matmul --methods orthograd
    .venv/bin/python tests/benchmarks/bench_runs.py --recipes demo --dry

Both methods do the same number of steps and checks, and take turns. Rows go to `results.csv`: one
for the whole run, with the time from start to end, and one for each phase, with its peak memory.
`--beside` keeps the cores busy with another program: products of matrices on two threads, or a loop
of Python. `--dry` makes models, data and runs tiny, to try the script, and appends no rows.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from records import BASELINE, WHOLE_RUN, append, run_columns

ROOT = Path(__file__).resolve().parents[2]
METHODS = (BASELINE, "orthograd")
SPEECH = "recipes/whisper_librispeech"
# script and configuration of each recipe, and what the benchmark changes
RECIPES = {
    "demo": ("recipes/demo/unlearn.py", "recipes/demo/demo.yaml", "--max_steps 30"),
    "fsdd": (f"{SPEECH}/unlearn.py", f"{SPEECH}/fsdd_digits.yaml", "--max_steps 30"),
    # A pretrained model and ten speakers of LibriSpeech. A step takes longer than whole checks, so
    # there are few.
    "whisper": (
        f"{SPEECH}/unlearn.py",
        f"{SPEECH}/tiny_en_suppression.yaml",
        "--max_eval_samples 40 --max_steps 6",
    ),
}
# Programs that keep cores busy while a recipe runs.
MATMUL = "import torch; torch.set_num_threads(2); x = torch.ones(1000, 1000)\nwhile True: x @ x"
BESIDE = {"matmul": MATMUL, "python": "while True: pass"}
# Rules that never hold, so that every run has the same steps and checks.
ALL_STEPS = ("--stop_when", "forget_loss >= 1000000000", "--abort_when", "test_wer > 1000000000")
DRY = (
    "--train_steps 2 --train_batch_size 2 --d_model 16 --layers 1 --heads 2 --max_steps 2 "
    "--retain_size 2 --per_device_train_batch_size 2 --per_device_retain_batch_size 2 "
    "--max_eval_samples 2 --check_steps 1 --check_samples 2"
).split()


def run(recipe: str, method: str, model: str | None, dry: bool, more: Sequence[str] = ()) -> dict:
    """The seconds of a whole run, and its phases; or "failure", the last line of its error.

    Args:
        more: further options of the recipe.
    """
    script, config, changes = RECIPES[recipe]
    with tempfile.TemporaryDirectory() as folder:
        options = [*changes.split(), *ALL_STEPS, "--method", method, "--output_dir", folder]
        options += ["--disable_tqdm", "true"]
        options += ["--model", model] if recipe == "whisper" else []
        command = [sys.executable, script, config, *options, *more, *(DRY if dry else ())]
        start = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        seconds = time.perf_counter() - start
        if done.returncode:
            return {"failure": done.stderr.strip().splitlines()[-1][:200]}
        results = json.loads(Path(folder, "results.json").read_text())
    return {"seconds": seconds, "phases": results["phases"]}


@contextlib.contextmanager
def beside(name: str | None) -> Iterator[None]:
    """The context in which one of `BESIDE` runs; None for none."""
    if name is None:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", BESIDE[name]])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def rows_of(method: str, rounds: list[dict]) -> list[dict]:
    """The columns of the rows of some runs with one method: medians, and the largest peaks."""
    failed = [found["failure"] for found in rounds if "failure" in found]
    if failed:
        return [{"method": method, "failure": failed[0]}]
    rows = [{"method": method, "step_s": statistics.median(found["seconds"] for found in rounds)}]
    for phase in rounds[0]["phases"]:
        found = [of_round["phases"][phase] for of_round in rounds]
        seconds = statistics.median(each["seconds"] for each in found)
        peak = max(each.get("memory_mb", 0) for each in found) * 2**20 / 1e9
        rows.append({"method": f"{method}: {phase}", "step_s": seconds, "peak_gb": peak})
    return rows


def measure(recipe: str, arguments: argparse.Namespace) -> None:
    """Runs a recipe with each method in turns; prints and appends the rows."""
    model = f"{recipe} beside {arguments.beside}" if arguments.beside else recipe
    common = {**run_columns(), "model": model, "tuning": WHOLE_RUN, "precision": "fp32"}
    methods = arguments.methods
    with beside(arguments.beside):
        rounds = [
            {method: run(recipe, method, arguments.model, arguments.dry) for method in methods}
            for _ in range(arguments.rounds)
        ]
    whole = {}
    for method in methods:
        for row in rows_of(method, [of_round[method] for of_round in rounds]):
            row |= {key: f"{row[key]:.4g}" for key in ("step_s", "peak_gb") if key in row}
            print(model, row)
            if row["method"] == method and "step_s" in row:
                whole[method] = float(row["step_s"])
            if not arguments.dry:
                append({**common, **row})
    if len(whole) == len(METHODS):
        print(f"{recipe}: orthograd takes {whole['orthograd'] / whole[BASELINE]:.3f} times as long")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=["demo"])
    parser.add_argument("--model", help="folder or Hub id of a pretrained Whisper, for `whisper`")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--beside", choices=BESIDE, help="a program that runs at the same time")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--dry", action="store_true", help="tiny runs; append no rows")
    arguments = parser.parse_args()
    if "whisper" in arguments.recipes and not arguments.model:
        parser.error("the recipe whisper needs --model")
    for recipe in arguments.recipes:
        measure(recipe, arguments)


if __name__ == "__main__":
    main()
