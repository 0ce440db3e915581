"""Five requests one after another: what the first one forgot, after each of the others.

    python tests/benchmarks/requests_in_a_row.py speakers words

Both work offline on a CPU, on the spoken digits of FSDD: "speakers" takes a classifier of six
speakers and lets it forget five of them, "words" a classifier of the ten digits and lets it forget
five of these. Each method forgets them in five requests, each from the model of the one before, and
all at once. The settings are those of the recipes; every request ends as soon as at most 5 % of its
samples are recognised. Appends a row for each request to
requests_in_a_row.csv, and prints its last part as a table. Finished runs are not repeated.
"""

import csv
import datetime
import json
import sys
from pathlib import Path

import yaml

from hf_unlearn.experiments.speech.classes import main as unlearn

HERE = Path(__file__).parent
RECIPES = HERE.parents[1] / "recipes" / "speech_classification"
OUT = HERE.parents[1] / "out" / "requests_in_a_row"
TABLE = HERE / "requests_in_a_row.csv"
# The recipe, the option that says what is forgotten, and the requests.
SEQUENCES = {
    "speakers": (
        "fsdd_speakers.yaml",
        "forget_speakers",
        ["theo", "lucas", "jackson", "george", "nicolas"],
    ),
    "words": ("fsdd_keywords.yaml", "forget_classes", ["three", "seven", "one", "eight", "five"]),
}
# (method, keep_forgotten)
WAYS = [
    ("orthograd", "none"),
    ("orthograd", "samples"),
    ("orthograd", "updates"),
    ("gradient_difference", "none"),
    ("orthograd_metric", "samples"),
]
COLUMNS = ["data", "method", "keep_forgotten", "order", "request", "forgotten", "first_accuracy"]
COLUMNS += ["first_loss", "mean_earlier_accuracy", "forget_accuracy", "test_accuracy", "steps"]
COLUMNS += ["stopped", "date"]


def run(data: str, folder: Path, model: str, names: list[str], method: str, keep: str) -> dict:
    """The results of one request; those of an earlier call if it has finished."""
    recipe, option, _ = SEQUENCES[data]
    if not (folder / "results.json").is_file():
        settings = yaml.safe_load((RECIPES / recipe).read_text())
        del settings["forget_speakers"]
        settings |= {option: names, "model": model, "method": method, "keep_forgotten": keep}
        settings |= {"output_dir": str(folder), "models_dir": str(OUT / "models")}
        settings |= {"stop_when": "forget_accuracy <= 5", "gold": "none", "attacks": False}
        settings |= {"relearn_samples": 0, "disable_tqdm": True}
        config = OUT / f"{folder.name}.yaml"
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(yaml.safe_dump(settings))
        unlearn([str(config)])
    return json.loads((folder / "results.json").read_text())


def row(results: dict, data: str, method: str, keep: str, order: str, names: list[str]) -> dict:
    """What the table says of one request; `names` as they were forgotten so far."""
    splits, settings = results["unlearned"], (data, method, keep, order)
    earlier = [split for split in splits if split.startswith("earlier_")]
    first = splits["earlier_1"] if earlier else splits["forget"]
    accuracy, loss = first["accuracy"], first["loss"]
    if order == "at once":
        column = "per_speaker" if data == "speakers" else "per_class"
        accuracy, loss = results[column]["unlearned"]["forget"][names[0]], None
    mean = [splits[split]["accuracy"] for split in earlier]
    return {
        **dict(zip(COLUMNS, settings)),
        "request": len(names),
        "forgotten": " ".join(names) if order == "at once" else names[-1],
        "first_accuracy": round(accuracy, 2),
        "first_loss": None if loss is None else round(loss, 3),
        "mean_earlier_accuracy": round(sum(mean) / len(mean), 2) if mean else None,
        "forget_accuracy": round(splits["forget"]["accuracy"], 2),
        "test_accuracy": round(splits["test"]["accuracy"], 2),
        "steps": results["stopping"]["step"],
        "stopped": results["stopping"]["reason"],
        "date": datetime.date.today().isoformat(),
    }


def sequence(data: str, method: str, keep: str) -> list[dict]:
    names, model, rows = SEQUENCES[data][2], "train", []
    for number, name in enumerate(names, start=1):
        # There is nothing to keep in the first request, which only writes its update.
        way = "updates" if number == 1 else keep
        folder = OUT / (f"{data}-{method}-1" if number == 1 else f"{data}-{method}-{keep}-{number}")
        results = run(data, folder, model, [name], method, way)
        rows.append(row(results, data, method, keep, "in a row", names[:number]))
        model = str(folder)
    return rows


def measure(data: str) -> list[dict]:
    rows, names = [], SEQUENCES[data][2]
    for method, keep in WAYS:
        rows += sequence(data, method, keep)
        if keep == "none":
            folder = OUT / f"{data}-{method}-at-once"
            results = run(data, folder, "train", names, method, keep)
            rows.append(row(results, data, method, keep, "at once", names))
        write(rows)
    return rows


def write(rows: list[dict]) -> None:
    """Replaces the table's rows of the same data."""
    old = list(csv.DictReader(TABLE.open())) if TABLE.is_file() else []
    kept = [one for one in old if one["data"] != rows[0]["data"]]
    with TABLE.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*kept, *rows])


if __name__ == "__main__":
    for chosen in sys.argv[1:] or SEQUENCES:
        for line in measure(chosen):
            print(*(line[name] for name in COLUMNS[:-1]), sep=" | ")
