"""Measures step time and peak memory of orthograd, of gradient_difference and of other ways to the
same step.

    make bench                                        # the suite of this machine, then the plot and README's table
    .venv/bin/python tests/benchmarks/bench.py --suite cpu --only model=resnet-50
    .venv/bin/python tests/benchmarks/bench.py --one "orthograd parameter" --model whisper-tiny --k 8

Each configuration runs in processes of its own, so that peaks do not mix, and the methods of a
setting take turns, round by round, since a machine's speed drifts; rows go to `results.csv`. A step
is what a user pays for: both batches, the projection, and plain SGD as the optimizer, which adds
least. Times are medians over the steps of all rounds, after two of each for warming up, of which
the first holds the engine's self-check; peaks are the greatest of all rounds.
"""

import argparse
import csv
import datetime
import gc
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from peers import PEERS

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.csv"
WARM_UP = 2
BASELINE = "gradient_difference"
OURS = (BASELINE, "orthograd parameter", "orthograd model")
FIELDS = (
    "run", "date", "commit", "machine", "torch", "transformers", "model", "tuning", "precision", "checkpointing",
    "seconds", "k", "method", "step_s", "peak_gb", "failure",
)  # fmt: skip
TINY = {"model": "whisper-tiny", "seconds": 10}
# What is run: the settings, and the methods that are compared in them.
SUITES = {
    "cpu": [
        ({**TINY, "k": 8}, (*OURS, *PEERS)),
        ({**TINY, "k": 4}, (*OURS, "published reference")),
        ({**TINY, "k": 8, "tuning": "lora"}, OURS),
        ({"model": "resnet-50", "k": 8}, OURS),
        ({**TINY, "k": 1}, OURS),
        ({**TINY, "k": 32}, OURS),
        ({**TINY, "k": 64}, OURS),
        ({**TINY, "k": 16}, (*OURS, "published reference")),
        ({"model": "vit-b", "k": 8}, (*OURS, "opacus ghost (norms)")),
    ],
    "cuda": [
        ({"model": "whisper-small", "k": 16, "precision": "bf16"}, (*OURS, *PEERS)),
        *[({"model": "whisper-small", "k": k, "precision": "bf16"}, OURS) for k in (1, 4, 32, 64)],
        ({"model": "whisper-large-v3", "k": 16, "precision": "bf16", "checkpointing": True}, OURS),
        ({"model": "whisper-large-v3", "k": 16, "precision": "bf16", "tuning": "lora"}, OURS),
        ({"model": "vit-b", "k": 16, "precision": "bf16"}, (*OURS, "opacus ghost (norms)")),
        ({"model": "resnet-50", "k": 16, "precision": "bf16"}, OURS),
    ],
}  # fmt: skip


def measure(arguments: argparse.Namespace) -> dict:
    """Runs one configuration in this process: the time of each step (s), and the peak memory (GB)
    that it added."""
    import torch
    from peft import LoraConfig, get_peft_model
    from shapes import SHAPES

    import hf_unlearn.trainer.trainer  # noqa: F401  what importing costs is no part of the peak

    cuda = torch.cuda.is_available()
    gc.collect()
    before = 0 if cuda else _resident_gb()
    torch.manual_seed(0)
    model, sample = SHAPES[arguments.model](arguments.seconds)
    if arguments.tuning == "lora":
        model = get_peft_model(
            model, LoraConfig(r=16, target_modules=["q_proj", "k_proj", "v_proj", "out_proj"])
        )
    forget, retain = ([sample() for _ in range(arguments.k)] for _ in range(2))
    run = _our_steps if arguments.one in OURS else _peer_steps
    times = run(arguments, model, forget, retain)
    peak = torch.cuda.max_memory_allocated() / 1e9 if cuda else _peak_resident_gb() - before
    return {"steps_s": times[WARM_UP:], "peak_gb": peak}


def _our_steps(arguments: argparse.Namespace, model, forget: list, retain: list) -> list[float]:
    from transformers import TrainerCallback

    from hf_unlearn import UnlearnConfig, UnlearnTrainer

    times = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_, **__):
            _wait()
            self.start = time.perf_counter()

        def on_step_end(self, *_, **__):
            _wait()
            times.append(time.perf_counter() - self.start)

    method, _, granularity = arguments.one.partition(" ")
    with tempfile.TemporaryDirectory() as folder:
        config = UnlearnConfig(
            output_dir=folder, method=method, granularity=granularity or "parameter", alpha=0.5,
            per_device_train_batch_size=arguments.k, per_device_retain_batch_size=arguments.k,
            max_steps=WARM_UP + arguments.steps, learning_rate=1e-6, optim="sgd", max_grad_norm=0,
            bf16=arguments.precision == "bf16", gradient_checkpointing=arguments.checkpointing,
            save_strategy="no", logging_strategy="no", report_to="none", disable_tqdm=True,
        )  # fmt: skip
        UnlearnTrainer(
            model=model, args=config, forget_dataset=forget, retain_dataset=retain,
            data_collator=_stack, callbacks=[Clock()],
        ).train()  # fmt: skip
    return times


def _peer_steps(arguments: argparse.Namespace, model, forget: list, retain: list) -> list[float]:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device).train()  # the shapes have no dropout
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()  # frozen statistics, as ours has them
    model.config._attn_implementation = "eager"  # PyTorch's fused attention does not take vmap
    batches = [
        {name: value.to(device) for name, value in _stack(samples).items()}
        for samples in (forget, retain)
    ]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    times = []
    for _ in range(WARM_UP + arguments.steps):
        _wait()
        start = time.perf_counter()
        with torch.autocast(device, torch.bfloat16, enabled=arguments.precision == "bf16"):
            PEERS[arguments.one](model, *batches, alpha=0.5)
        optimizer.step()
        optimizer.zero_grad()
        _wait()
        times.append(time.perf_counter() - start)
    return times


def _stack(samples: list[dict]) -> dict:
    import torch

    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}


def _wait() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _resident_gb() -> float:
    import psutil

    return psutil.Process().memory_info().rss / 1e9


def _peak_resident_gb() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # Linux counts in KiB


def run_suite(name: str, steps: int, rounds: int, only: dict[str, str], chosen: list[str]) -> None:
    """Measures a suite, or its settings with the values of `only` and the `chosen` methods, and
    appends the rows to `results.csv`."""
    now = datetime.datetime.now(datetime.timezone.utc)
    common = {
        "run": now.strftime("%Y%m%d-%H%M%S"),
        "date": now.strftime("%Y-%m-%d"),
        "commit": _commit(),
        **_machine(),
    }
    for setting, methods in SUITES[name]:
        setting = {
            "tuning": "full",
            "precision": "fp32",
            "checkpointing": False,
            "seconds": 30,
            **setting,
        }
        if any(str(setting[name]) != value for name, value in only.items()):
            continue
        methods = [method for method in methods if not chosen or method in chosen]
        done = [
            {method: _measured_apart(method, setting, steps) for method in methods}
            for _ in range(rounds)
        ]
        for method in methods:
            row = {
                **common,
                **setting,
                "method": method,
                **_summary([measured[method] for measured in done]),
            }
            print(
                {
                    field: row.get(field)
                    for field in ("model", "tuning", "k", "method", "step_s", "peak_gb", "failure")
                }
            )
            _append(row)


def _summary(rounds: list[dict]) -> dict[str, str]:
    """What a row says of a configuration that was measured in some rounds, or why one of them
    failed."""
    if failed := [measured for measured in rounds if "failure" in measured]:
        return failed[0]
    times = [time for measured in rounds for time in measured["steps_s"]]
    peak = max(measured["peak_gb"] for measured in rounds)
    return {"step_s": f"{statistics.median(times):.4g}", "peak_gb": f"{peak:.4g}"}


def _measured_apart(method: str, setting: dict, steps: int) -> dict:
    """What `measure` finds in a process of its own, or the last line of its `failure`."""
    options = [f"--{name}={value}" for name, value in setting.items() if name != "checkpointing"]
    options += ["--checkpointing"] * setting["checkpointing"]
    command = [sys.executable, __file__, "--one", method, "--steps", str(steps), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        return json.loads(lines[-1])
    return {
        "failure": (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1][
            :200
        ]
    }


def _append(row: dict) -> None:
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def _commit() -> str:
    def git(*arguments):
        return subprocess.run(
            ["git", *arguments], cwd=HERE, capture_output=True, text=True
        ).stdout.strip()

    # the results themselves may have changed
    changed = git(
        "status",
        "--porcelain",
        "--untracked-files=no",
        ":/",
        ":(exclude,top)tests/benchmarks/results.*",
    )
    return git("rev-parse", "--short", "HEAD") + ("+changes" if changed else "")


def _machine() -> dict[str, str]:
    import torch
    import transformers

    if torch.cuda.is_available():
        machine = torch.cuda.get_device_name()
    else:
        machine = f"CPU {platform.machine()}, {torch.get_num_threads()} threads"
    return {
        "machine": machine,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--suite", choices=SUITES, default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME=VALUE",
                        help="measure the suite's settings with these values only, as "
                             "model=resnet-50 k=8")  # fmt: skip
    parser.add_argument("--methods", nargs="+", default=[], choices=[*OURS, *PEERS], metavar="METHOD",
                        help="measure these only, for more rounds in the same time")  # fmt: skip
    parser.add_argument(
        "--one", metavar="METHOD", help="measure one method here, print it, write no row"
    )
    parser.add_argument("--model", default="whisper-tiny")
    parser.add_argument("--tuning", choices=("full", "lora"), default="full")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--seconds", type=int, default=10, help="of audio")
    parser.add_argument("--k", type=int, default=8, help="retain samples, and forget samples too")
    parser.add_argument("--steps", type=int, default=3, help="measured in each round")
    parser.add_argument(
        "--rounds", type=int, default=2, help="in which the methods of a setting take turns"
    )
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments)))
    else:
        only = dict(pair.split("=", 1) for pair in arguments.only)
        run_suite(arguments.suite, arguments.steps, arguments.rounds, only, arguments.methods)


if __name__ == "__main__":
    main()
