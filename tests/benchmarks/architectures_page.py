"""Writes docs/architectures.md from the rows of architectures.csv."""

import csv
import textwrap
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
One step of `UnlearnTrainer` against brute force, for tiny random models of transformers {versions}.
{compared} classes of {types} model types were compared, and the largest relative error is {worst}.
Some were compared in several variants, such as implementations of their experts: {rows} rows.
Written by
```console
$ python -m tests.benchmarks.architectures
```
from [architectures.csv](../tests/benchmarks/architectures.csv). It first measures the rows that are
missing there.

Two samples are forgotten and four retained, with texts, sounds or images of different lengths where
the model accepts them. **parameter** and **model** are the relative errors of the step at these two
granularities, in float32 against brute force in float64. An error in *italics* was computed in
float64, because rounding in float32 gave more than 1e-4. **How** is "exact" if the engine computed
all per-sample gradients in one pass. If some parameters or all samples took the slow path, the step
is as exact, but slower. "refused" means that the trainer does not accept the model, and gives its
message. Batch norms get gradients with contiguous memory here, because otherwise torch computes
wrong ones on CPUs for batches of one sample.

{totals}
"""


def read() -> list[dict[str, str]]:
    """The rows of architectures.csv."""
    with RESULTS.open(newline="") as file:
        return list(csv.DictReader(file))


def kind(row: dict[str, str]) -> str:
    """The key of KINDS that a row belongs to."""
    how = row["how"].split(" (")[0]
    how = "slow" if how.endswith("slow parameters") and not how.startswith("wrong") else how
    return how if how in KINDS else "failed"


def page(rows: list[dict[str, str]]) -> str:
    """The text of docs/architectures.md."""
    compared = [row for row in rows if row["error_model"]]
    tasks = [(task, list(some)) for task, some in groupby(rows, lambda row: row["task"])]
    text = TEXT.format(
        versions=", ".join(sorted({row["transformers"] for row in rows})),
        compared=len({row["class"].split(",")[0] for row in compared}),
        rows=len(compared),
        types=len({row["architecture"] for row in compared}),
        worst=max(
            (max(row["error_parameter"], row["error_model"], key=float) for row in compared),
            key=float,
        ),
        totals=_totals(tasks, rows),
    )
    return text + "".join(_section(task, some) for task, some in tasks)


def _totals(tasks: list, rows: list[dict]) -> str:
    lines = [
        f"| rows by task | {' | '.join(KINDS.values())} | sum |",
        "|---" * (len(KINDS) + 2) + "|",
    ]
    for name, some in (*tasks, ("**all**", rows)):
        kinds = [kind(row) for row in some]
        counts = " | ".join(str(kinds.count(k) or "") for k in KINDS)
        lines.append(f"| {name} | {counts} | {len(some)} |")
    return "\n".join(lines)


def _section(task: str, rows: list[dict]) -> str:
    built = [row for row in rows if kind(row) != "not built"]
    lines = []
    if built:
        lines = ["| architecture | class | parameter | model | how |", "|---|---|---|---|---|"]
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
    left = [
        textwrap.fill(
            f"- {row['class']}: {row['how'][11:-1]}",
            width=140,
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for row in rows
        if kind(row) == "not built"
    ]
    text = f"\n## {task[0].upper() + task[1:]}\n" + "".join(f"{line}\n" for line in lines)
    return text + ("\nNot built:\n\n" + "".join(f"{line}\n" for line in left) if left else "")


def write() -> None:
    PAGE.write_text(page(read()))
