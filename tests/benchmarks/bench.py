"""Measures step time and peak memory of orthograd, of gradient difference, and of other ways to
compute OrthoGrad's step.

    make bench    # all benchmarks of this machine, then the plot
    .venv/bin/python tests/benchmarks/bench.py --suite cpu --only model=resnet-50
    .venv/bin/python tests/benchmarks/bench.py --one "orthograd parameter" --k 8
    .venv/bin/python tests/benchmarks/bench.py --suite cuda --dry    # tries all settings, tiny

Every configuration runs in a process of its own, so that peaks do not add up. The methods of a
setting take turns, round by round, because the speed of a machine drifts. Rows go to `results.csv`.

A step is what a user pays for: forward and backward passes on both batches, the projection, and
plain SGD, the cheapest optimizer. Times are medians over the steps of all rounds, after two warm-up
steps in each round; the first of these also contains the engine's self-check. Peaks are the largest
of all rounds.
"""

import argparse
import gc
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import psutil
import torch
from peers import PEERS
from peft import LoraConfig, get_peft_model
from records import BASELINE, append, run_columns, synchronize
from shapes import SHAPES, dry_shape
from transformers import PreTrainedModel, TrainerCallback

from hf_unlearn import UnlearnConfig, UnlearnTrainer

WARM_UP = 2
OURS = (BASELINE, "orthograd parameter", "orthograd model")
WITH_REFERENCE = (*OURS, "published reference")
WITH_GHOST = (*OURS, "opacus ghost (norms)")
TINY = {"model": "whisper-tiny", "seconds": 10}
DEMO = {"model": "whisper-demo", "seconds": 2}
SMALL = {"model": "whisper-small", "precision": "bf16"}
LARGE = {"model": "whisper-large-v3", "k": 16, "precision": "bf16"}
# The settings of each suite, and the methods that are compared in each.
SUITES = {
    "cpu": [
        ({**TINY, "k": 8}, (*OURS, *PEERS)),
        ({**TINY, "k": 4}, WITH_REFERENCE),
        ({**TINY, "k": 8, "tuning": "lora"}, OURS),
        ({"model": "resnet-50", "k": 8}, OURS),
        ({**TINY, "k": 1}, OURS),
        ({**TINY, "k": 32}, OURS),
        ({**TINY, "k": 64}, OURS),
        ({**TINY, "k": 16}, WITH_REFERENCE),
        ({"model": "vit-b", "k": 8}, WITH_GHOST),
        ({**DEMO, "k": 64}, OURS),
        ({**DEMO, "k": 256}, OURS),
        ({**DEMO, "k": 1024}, OURS),
    ],
    "cuda": [
        ({**SMALL, "k": 16}, (*OURS, *PEERS)),
        ({**SMALL, "k": 1}, OURS),
        ({**SMALL, "k": 4}, OURS),
        ({**SMALL, "k": 32}, OURS),
        ({**SMALL, "k": 64}, OURS),
        ({**LARGE, "checkpointing": True}, OURS),
        ({**LARGE, "tuning": "lora"}, OURS),
        ({"model": "vit-b", "k": 16, "precision": "bf16"}, WITH_GHOST),
        ({"model": "resnet-50", "k": 16, "precision": "bf16"}, OURS),
    ],
}
DEFAULTS = {"tuning": "full", "precision": "fp32", "checkpointing": False, "seconds": 30}


def measure(arguments: argparse.Namespace) -> dict[str, list[float] | float]:
    """Runs one configuration in this process.

    Returns:
        steps_s: the time of each step after the warm-up, in seconds.
        peak_gb: the largest amount of memory that the run added, in GB.
    """
    cuda = torch.cuda.is_available()
    gc.collect()
    before = 0 if cuda else _resident_gb()
    torch.manual_seed(0)
    # A large model's random weights take long to draw on the CPU.
    with torch.device("cuda" if cuda else "cpu"):
        if arguments.dry:
            model, sample = dry_shape(arguments.model, arguments.seconds)
        else:
            model, sample = SHAPES[arguments.model](arguments.seconds)
    if arguments.tuning == "lora":
        model = get_peft_model(
            model, LoraConfig(r=16, target_modules=["q_proj", "k_proj", "v_proj", "out_proj"])
        )
    forget, retain = ([sample() for _ in range(arguments.k)] for _ in range(2))
    run = our_steps if arguments.one in OURS else peer_steps
    times = run(arguments, model, forget, retain)
    peak = torch.cuda.max_memory_allocated() / 1e9 if cuda else _peak_resident_gb() - before
    return {"steps_s": times[WARM_UP:], "peak_gb": peak}


class StepTimer(TrainerCallback):
    """Measures the time of every optimizer step, in seconds."""

    def __init__(self):
        self.times: list[float] = []
        self.start = 0.0

    def on_step_begin(self, *_, **__):
        synchronize()
        self.start = time.perf_counter()

    def on_step_end(self, *_, **__):
        synchronize()
        self.times.append(time.perf_counter() - self.start)


def our_steps(
    arguments: argparse.Namespace, model: PreTrainedModel, forget: list[dict], retain: list[dict]
) -> list[float]:
    """The times of all steps of an `UnlearnTrainer`."""
    timer = StepTimer()
    method, _, granularity = arguments.one.partition(" ")
    with tempfile.TemporaryDirectory() as folder:
        config = UnlearnConfig(
            output_dir=folder,
            method=method,
            granularity=granularity or "parameter",
            alpha=0.5,
            per_device_train_batch_size=arguments.k,
            per_device_retain_batch_size=arguments.k,
            max_steps=WARM_UP + arguments.steps,
            learning_rate=1e-6,
            optim="sgd",
            max_grad_norm=0,
            bf16=arguments.precision == "bf16",
            gradient_checkpointing=arguments.checkpointing,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        UnlearnTrainer(
            model=model,
            args=config,
            forget_dataset=forget,
            retain_dataset=retain,
            data_collator=stack,
            callbacks=[timer],
        ).train()
    return timer.times


def peer_steps(
    arguments: argparse.Namespace, model: PreTrainedModel, forget: list[dict], retain: list[dict]
) -> list[float]:
    """The times of all steps of one of `PEERS`."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # The shapes have no dropout.
    model.to(device).train()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            # Running statistics stay fixed, as in UnlearnTrainer.
            module.eval()
    # vmap does not support PyTorch's fused attention.
    model.config._attn_implementation = "eager"
    batches = [
        {name: value.to(device) for name, value in stack(samples).items()}
        for samples in (forget, retain)
    ]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    times = []
    for _ in range(WARM_UP + arguments.steps):
        synchronize()
        start = time.perf_counter()
        with torch.autocast(device, torch.bfloat16, enabled=arguments.precision == "bf16"):
            PEERS[arguments.one](model, *batches, alpha=0.5)
        optimizer.step()
        optimizer.zero_grad()
        synchronize()
        times.append(time.perf_counter() - start)
    return times


def stack(samples: list[dict]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}


def _resident_gb() -> float:
    return psutil.Process().memory_info().rss / 1e9


def _peak_resident_gb() -> float:
    # Linux counts in KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def run_suite(arguments: argparse.Namespace) -> None:
    """Measures the settings of a suite that were asked for, and appends their rows to
    `results.csv`."""
    common, start = run_columns(), time.monotonic()
    only = dict(pair.split("=", 1) for pair in arguments.only)
    for values, methods in SUITES[arguments.suite]:
        setting = {**DEFAULTS, **values}
        if any(str(setting[key]) != value for key, value in only.items()):
            continue
        if time.monotonic() - start > arguments.limit:
            print(f"not measured for lack of time: {setting}")
            continue
        selected = [m for m in methods if not arguments.methods or m in arguments.methods]
        for row in measured_setting(setting, selected, arguments):
            shown = ("model", "tuning", "k", "method", "step_s", "peak_gb", "failure")
            print({column: row.get(column) for column in shown}, flush=True)
            if not arguments.dry:
                append({**common, **row})


def measured_setting(
    setting: dict, methods: list[str], arguments: argparse.Namespace
) -> list[dict]:
    """The columns of one row for each method, which take turns."""
    run = {**setting, "k": min(setting["k"], 4)} if arguments.dry else setting
    measure_one = measure_here if arguments.dry else measure_in_subprocess
    measured = [
        {method: measure_one(method, run, arguments.steps) for method in methods}
        for _ in range(arguments.rounds)
    ]
    return [
        {**run, "method": method, **summary([of_round[method] for of_round in measured])}
        for method in methods
    ]


def summary(rounds: list[dict]) -> dict[str, str]:
    """The columns of a row that tell the result of some rounds, or why the first of them failed."""
    if failed := [measured for measured in rounds if "failure" in measured]:
        return failed[0]
    times = [time for measured in rounds for time in measured["steps_s"]]
    peak = max(measured["peak_gb"] for measured in rounds)
    return {"step_s": f"{statistics.median(times):.4g}", "peak_gb": f"{peak:.4g}"}


def measure_here(method: str, setting: dict, steps: int) -> dict:
    """What `measure` returns for a tiny model, or the last line of its error as "failure"."""
    try:
        return measure(argparse.Namespace(one=method, steps=steps, dry=True, **setting))
    except Exception as error:
        return {"failure": str(error).strip().splitlines()[-1][:200]}


def measure_in_subprocess(method: str, setting: dict, steps: int) -> dict:
    """What `measure` returns in a new process, or the last line of its error as "failure"."""
    options = [f"--{name}={value}" for name, value in setting.items() if name != "checkpointing"]
    options += ["--checkpointing"] * setting["checkpointing"]
    command = [sys.executable, __file__, "--one", method, "--steps", str(steps), *options]
    finished = subprocess.run(command, capture_output=True, text=True)
    output, error = (text.strip().splitlines() for text in (finished.stdout, finished.stderr))
    if finished.returncode == 0 and output:
        return json.loads(output[-1])
    last_line = (error or [f"exit status {finished.returncode}"])[-1]
    return {"failure": last_line[:200]}


def parsed_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--suite", choices=SUITES, default="cuda" if torch.cuda.is_available() else "cpu")
    add(
        "--only",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="measure only the settings of the suite with these values: model=resnet-50 k=8",
    )
    add(
        "--methods",
        nargs="+",
        default=[],
        choices=[*OURS, *PEERS],
        metavar="METHOD",
        help="measure only these methods, to have time for more rounds",
    )
    add("--one", metavar="METHOD", help="measure one method, print the result, append no row")
    add("--model", choices=SHAPES, default="whisper-tiny", help="of --one")
    add("--tuning", choices=("full", "lora"), default="full", help="of --one")
    add("--precision", choices=("fp32", "bf16"), default="fp32", help="of --one")
    add("--checkpointing", action="store_true", help="use gradient checkpointing in --one")
    add("--seconds", type=int, default=10, help="length of the audio of --one")
    add(
        "--k", type=int, default=8, help="number of retain samples, and of forget samples, of --one"
    )
    add("--steps", type=int, default=3, help="number of steps to measure in each round")
    add("--rounds", type=int, default=2, help="number of rounds")
    add(
        "--limit",
        type=float,
        default=float("inf"),
        metavar="SECONDS",
        help="begin no setting after this time",
    )
    add(
        "--dry",
        action="store_true",
        help="tiny models and at most 4 samples, in this process; no rows",
    )
    return parser.parse_args()


def main() -> None:
    arguments = parsed_arguments()
    if arguments.one:
        print(json.dumps(measure(arguments)))
    else:
        run_suite(arguments)


if __name__ == "__main__":
    main()
