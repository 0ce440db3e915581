"""Five requests one after another: what the first one forgot, after each of the others.

    python tests/benchmarks/requests_in_a_row.py speakers words voices

All work offline on a CPU. "speakers" takes a classifier of the six speakers of FSDD and lets it
forget five of them, "words" a classifier of the ten spoken digits and lets it forget five of these.
"voices" takes the demo's small Whisper and lets it forget five of twelve synthetic voices. Each
method forgets them in five requests, each from the model of the one before, and all at once. The
settings are those of the recipes, but for the rule that ends a request: at most 5 % of its samples
are recognised, or the WER of a voice is at least 25 %. Appends a row for each request to
requests_in_a_row.csv, and prints its last part as a table. Finished runs are not repeated.
"""

import csv
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

HERE = Path(__file__).parent
RECIPES = HERE.parents[1] / "recipes"
OUT = HERE.parents[1] / "out" / "requests_in_a_row"
TABLE = HERE / "requests_in_a_row.csv"


@dataclass(frozen=True)
class RequestSequence:
    """Requests to one model.

    Attributes:
        recipe: its configuration.
        option: says what is forgotten.
        forgotten: by the requests, in this order.
        metric: of the first request's samples, in percent.
        stop_when: ends each request.
    """

    recipe: Path
    option: str
    forgotten: tuple[str, ...]
    metric: str = "accuracy"
    stop_when: str = "forget_accuracy <= 5"


SEQUENCES = {
    "speakers": RequestSequence(
        RECIPES / "speech_classification" / "fsdd_speakers.yaml",
        "forget_speakers",
        ("theo", "lucas", "jackson", "george", "nicolas"),
    ),
    "words": RequestSequence(
        RECIPES / "speech_classification" / "fsdd_keywords.yaml",
        "forget_classes",
        ("three", "seven", "one", "eight", "five"),
    ),
    "voices": RequestSequence(
        RECIPES / "demo" / "demo.yaml",
        "forget_speakers",
        ("anna", "bruno", "clara", "david", "elena"),
        metric="wer",
        # The retrained model of the demo's own voice has a WER of 16 %.
        stop_when="forget_wer >= 25",
    ),
}
# (method, keep_forgotten)
WAYS = [
    ("orthograd", "none"),
    ("orthograd", "samples"),
    ("gradient_difference", "none"),
    ("orthograd", "updates"),
    ("orthograd_metric", "samples"),
]
COLUMNS = ["data", "metric", "method", "keep_forgotten", "order", "request", "forgotten", "first"]
COLUMNS += ["first_loss", "mean_earlier", "forget", "test", "steps", "stopped"]
COLUMNS += ["date", "commit", "machine", "torch", "transformers"]


def run(data: str, folder: Path, model: str, names: list[str], method: str, keep: str) -> dict:
    """The results of one request; those of an earlier call if it has finished."""
    sequence = SEQUENCES[data]
    if not (folder / "results.json").is_file():
        settings = yaml.safe_load(sequence.recipe.read_text())
        del settings["forget_speakers"]
        settings |= {sequence.option: names, "model": model, "method": method}
        settings |= {"keep_forgotten": keep, "output_dir": str(folder)}
        settings |= {"models_dir": str(OUT / "models"), "stop_when": sequence.stop_when}
        settings |= {"gold": "none", "attacks": False, "disable_tqdm": True}
        if data != "voices":
            settings["relearn_samples"] = 0
        config = OUT / f"{folder.name}.yaml"
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(yaml.safe_dump(settings))
        command = [sys.executable, str(sequence.recipe.with_name("unlearn.py")), str(config)]
        subprocess.run(command, cwd=HERE.parents[1], check=True)
    return json.loads((folder / "results.json").read_text())


def row(results: dict, data: str, method: str, keep: str, order: str, names: list[str]) -> dict:
    """What the table says of one request; `names` as they were forgotten so far."""
    splits, metric = results["unlearned"], SEQUENCES[data].metric
    earlier = [split for split in splits if split.startswith("earlier_")]
    first = splits["earlier_1"] if earlier else splits["forget"]
    value, loss = first[metric], first["loss"]
    if order == "at once":
        column = "per_class" if data == "words" else "per_speaker"
        value, loss = results[column]["unlearned"]["forget"][names[0]], None
    mean = [splits[split][metric] for split in earlier]
    return {
        **dict(zip(COLUMNS, (data, metric, method, keep, order))),
        "request": len(names),
        "forgotten": " ".join(names) if order == "at once" else names[-1],
        "first": round(value, 2),
        "first_loss": None if loss is None else round(loss, 3),
        "mean_earlier": round(sum(mean) / len(mean), 2) if mean else None,
        "forget": round(splits["forget"][metric], 2),
        "test": round(splits["test"][metric], 2),
        "steps": results["stopping"]["step"],
        "stopped": results["stopping"]["reason"],
        **circumstances(results["environment"]),
    }


def circumstances(environment: dict) -> dict[str, str]:
    """When a run was made, with what code, where, and with what libraries."""
    return {
        "date": environment["date"][:10],
        # "+" stands for files that differed from the commit.
        "commit": environment["commit"][:7] + "+" * environment["commit"].endswith("+"),
        "machine": f"{environment['device']}, threads: {environment['cpu_threads']}",
        **{name: environment["packages"][name] for name in ("torch", "transformers")},
    }


def folder_of(data: str, method: str, keep: str, number: int) -> Path:
    """The folder of a request's model. All ways of a method have the first request in common."""
    return OUT / (f"{data}-{method}-1" if number == 1 else f"{data}-{method}-{keep}-{number}")


def in_a_row(data: str, method: str, keep: str, requests: int | None = None) -> list[dict]:
    """The rows of the first `requests` requests, or of all."""
    names, model, rows = SEQUENCES[data].forgotten, "train", []
    for number, name in enumerate(names[:requests], start=1):
        # There is nothing to keep in the first request, which only writes its update.
        way = "updates" if number == 1 else keep
        folder = folder_of(data, method, keep, number)
        results = run(data, folder, model, [name], method, way)
        rows.append(row(results, data, method, keep, "in a row", list(names[:number])))
        model = str(folder)
    return rows


def measure(data: str) -> list[dict]:
    rows, names = [], list(SEQUENCES[data].forgotten)
    for method, keep in WAYS:
        rows += in_a_row(data, method, keep)
        if keep == "none":
            folder = OUT / f"{data}-{method}-at-once"
            results = run(data, folder, "train", names, method, keep)
            rows.append(row(results, data, method, keep, "at once", names))
        write(rows)
    return rows


def write(rows: list[dict], table: Path = TABLE, columns: Sequence[str] = COLUMNS) -> None:
    """Replaces the table's rows of the same data."""
    old = list(csv.DictReader(table.open())) if table.is_file() else []
    kept = [one for one in old if one["data"] != rows[0]["data"]]
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*kept, *rows])


if __name__ == "__main__":
    for chosen in sys.argv[1:] or SEQUENCES:
        for line in measure(chosen):
            print(*(line[name] for name in COLUMNS[: COLUMNS.index("date")]), sep=" | ")
