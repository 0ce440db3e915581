"""Writes docs/architectures.md from the rows of architectures.csv."""

import csv
from itertools import groupby
from pathlib import Path

RESULTS = Path(__file__).with_name("architectures.csv")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "architectures.md"
KINDS = {
    "exact": "exact",
    "slow": "exact, some parameters slowly",
    "one by one": "exact, samples one by one",
    "refused": "refused",
    "failed": "failed",
    "not built": "not built",
}
TEXT = """# Architectures
One step of `UnlearnTrainer` against brute force, for tiny random models of transformers {versions}: {compared} classes of
{types} model types were compared, and the largest relative error is {worst}. Written by
```console
$ python tests/benchmarks/architectures.py
```
from [architectures.csv](../tests/benchmarks/architectures.csv), whose rows it measures where they are missing.

Two samples are forgotten and four kept, with texts, sounds or images of different lengths where the model takes such;
**parameter** and **model** are the relative errors of the step in these two granularities, in float32 against brute force in
float64 (in *italics*: computed in float64, where the rounding of float32 made more than 1e-4). **How** is "exact" where the
engine got all per-sample gradients in one pass; where it left some parameters or all samples to the slow path, the step is
as exact, but slower; "refused" is what the trainer does not take, with its message. Batch norms get their gradients in the
usual order of memory here: in another one torch computes wrong gradients for batches of one sample on CPUs.

{totals}
"""


def read() -> list[dict]:
    with RESULTS.open(newline="") as file:
        return list(csv.DictReader(file))


def kind(row: dict) -> str:
    how = row["how"].split(" (")[0]
    how = "slow" if how.endswith("slow parameters") and not how.startswith("wrong") else how
    return how if how in KINDS else "failed"


def page(rows: list[dict]) -> str:
    compared = [row for row in rows if row["error_model"]]
    tasks = [(task, list(some)) for task, some in groupby(rows, lambda row: row["task"])]
    text = TEXT.format(
        versions=", ".join(sorted({row["transformers"] for row in rows})),
        compared=len({row["class"].split(",")[0] for row in compared}),
        types=len({row["architecture"] for row in compared}),
        worst=max(
            (max(row["error_parameter"], row["error_model"], key=float) for row in compared),
            key=float,
        ),
        totals=_totals(tasks, rows),
    )
    return text + "".join(_section(task, some) for task, some in tasks)


def _totals(tasks: list, rows: list[dict]) -> str:
    lines = ["| task | " + " | ".join(KINDS.values()) + " |", "|---|" + "---|" * len(KINDS)]
    for name, some in (*tasks, ("**all**", rows)):
        kinds = [kind(row) for row in some]
        lines.append(f"| {name} | " + " | ".join(str(kinds.count(k) or "") for k in KINDS) + " |")
    return "\n".join(lines)


def _section(task: str, rows: list[dict]) -> str:
    built = [row for row in rows if kind(row) != "not built"]
    lines = (
        ["| architecture | class | parameter | model | how |", "|---|---|---|---|---|"]
        if built
        else []
    )
    for row in built:
        mark = "*" if row["precision"] == "float64" else ""
        errors = [
            f"{mark}{row[name]}{mark}" if row[name] else ""
            for name in ("error_parameter", "error_model")
        ]
        how = row["how"].replace("|", "\\|")
        lines.append(
            f"| {row['architecture']} | {row['class']} | {errors[0]} | {errors[1]} | {how} |"
        )
    left = [f"- {row['class']}: {row['how'][11:-1]}" for row in rows if kind(row) == "not built"]
    text = f"\n## {task[0].upper() + task[1:]}\n" + "".join(f"{line}\n" for line in lines)
    return text + ("\nNot built:\n\n" + "".join(f"{line}\n" for line in left) if left else "")


def write() -> None:
    PAGE.write_text(page(read()))
