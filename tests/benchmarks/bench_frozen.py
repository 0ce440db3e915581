"""Measures what it saves to compute the frozen first part of a model once: a run that trains the
decoder of a pretrained Whisper, with and without `frozen_cache_gb`.

    .venv/bin/python tests/benchmarks/bench_frozen.py --model openai/whisper-tiny.en
    .venv/bin/python tests/benchmarks/bench_frozen.py --model openai/whisper-tiny.en --windows 0
    .venv/bin/python tests/benchmarks/bench_frozen.py --model openai/whisper-tiny.en --dry

By default each step reads new windows of the forget utterances, for which nothing can be kept. With
`--windows 0` it reads whole utterances, which come again. Both runs do the same steps and checks.
The first run also fills the cache of checked audio, which counts as "features". Rows go to
`results.csv`: one for each phase, with its seconds. The first pass over each sample is part of
"evaluation" and "unlearning". `--dry` makes the run tiny, to try the script, and appends no rows.
"""

import argparse

from bench_runs import run
from records import WHOLE_RUN, append, run_columns

KEPT = {"in every pass": "0", "once": "4"}
OPTIONS = (
    "--trainable model.decoder --step_control none --optim adamw_torch --learning_rate 1e-5 "
    "--retain_size 16 --per_device_retain_batch_size 8 --max_steps 12 --check_steps 3 "
    "--check_samples 8 --max_eval_samples 8"
).split()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="folder or Hub id of a pretrained Whisper")
    parser.add_argument("--method", default="orthograd")
    parser.add_argument("--windows", type=int, default=2, help="forget_windows of the recipe")
    parser.add_argument("--dry", action="store_true", help="tiny runs; append no rows")
    arguments = parser.parse_args()
    model = "whisper decoder" + ("" if arguments.windows else ", whole utterances")
    common = {**run_columns(), "model": model, "tuning": WHOLE_RUN, "precision": "fp32"}
    seconds: dict[str, dict[str, float]] = {}
    for name, limit in KEPT.items():
        options = [*OPTIONS, "--frozen_cache_gb", limit]
        options += ["--forget_windows", str(arguments.windows)]
        record = run("whisper", arguments.method, arguments.model, arguments.dry, options)
        if "failure" in record:
            raise SystemExit(f"{name}: {record['failure']}")
        seconds[name] = {phase: each["seconds"] for phase, each in record["phases"].items()}
        for phase, taken in seconds[name].items():
            row = {"method": f"{arguments.method}, frozen part {name}: {phase}"}
            row |= {"step_s": f"{taken:.4g}"}
            print(row)
            if not arguments.dry:
                append({**common, **row})
    plain, once = seconds.values()
    for phase in plain:
        print(f"{phase}: {plain[phase] / once[phase]:.2f} times faster")


if __name__ == "__main__":
    main()
