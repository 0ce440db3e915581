"""The results of a run as tables: models side by side, for each metric and split."""

from collections.abc import Sequence
from typing import Any

from ..metrics.attack_table import ATTACKS
from .results import MODELS, Results
from .tasks import Task, task_of

# Rows of cells; the first one holds the headings.
Table = list[list[str]]

# The unlearning scores and their wanted directions.
SCORES = {"uis": "down", "aus": "up", "gum": "up"}


def results_table(
    results: Results, *, metrics: Sequence[str] | None = None, markdown: bool = False
) -> str:
    """One table per metric, splits x models, with 95 % intervals where there are any.

    Lines are shorter than 100 characters.

    Args:
        results: models without metrics are left out. The task decides which metrics and splits
            are shown, and their order.
        metrics: names; by default those of the task.

    Raises:
        ValueError: no model was evaluated.
    """
    return "\n\n".join(align(rows, markdown) for rows in results_table_rows(results, metrics))


def results_table_rows(results: Results, metrics: Sequence[str] | None = None) -> list[Table]:
    """The tables of `results_table` as rows of cells."""
    models = results.models()
    if not models:
        raise ValueError(
            f"the results have metrics of none of {', '.join(MODELS)}: evaluate a model first"
        )
    task = task_of(results)
    splits = task.in_order(split for splits in models.values() for split in splits)
    tables = []
    for metric in metrics or task.metrics:
        measured = [v[metric] for model in models.values() for v in model.values() if metric in v]
        # Looping outputs are rare, so their table is shown only if there are any.
        if any(measured) if metric == "loops" else measured:
            rows = [_row(split, models, metric, task) for split in splits]
            tables.append([[task.metrics.get(metric, metric), "wanted", *models], *rows])
    return tables


def further_tables(results: Results, *, markdown: bool = False) -> str:
    """Tables of scores, membership attacks and relearning speed, as far as they were measured."""
    return "\n\n".join(align(rows, markdown) for rows in further_tables_rows(results))


def further_tables_rows(results: Results) -> list[Table]:
    """The tables of `further_tables` as rows of cells."""
    tables = []
    if results.scores:
        measured = set().union(*results.scores.values())
        wanted = {name: wish for name, wish in SCORES.items() if name in measured}
        tables.append(_models_table("Score", results.scores, wanted))
    if results.attacks:
        has_retrained = results.retrained is not None
        measured = set().union(*results.attacks.values())
        wanted = {
            name: "as retrained" if has_retrained and attack.wanted else attack.wanted
            for name, attack in ATTACKS.items()
            if name in measured
        }
        tables.append(_models_table("Membership attack", results.attacks, wanted))
    if results.relearning:
        tables.append(_models_table("Relearning", results.relearning, {"steps": "as retrained"}))
    return tables


def _models_table(title: str, values_of: dict[str, dict], wanted: dict[str, str]) -> Table:
    """A table of numbers x models, for numbers that do not belong to a split.

    Args:
        values_of: model -> {name of a number: value}.
        wanted: name of a number -> its wanted direction or value, in the order of the rows.
    """
    models = {name: values_of[name] for name in MODELS if values_of.get(name)}

    def cell(value: Any) -> str:
        return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)

    rows = [
        [name, want, *(cell(values.get(name)) for values in models.values())]
        for name, want in wanted.items()
    ]
    return [[title, "wanted", *models], *rows]


def _row(split: str, models: dict[str, dict], metric: str, task: Task) -> list[str]:
    cells = (_cell(model.get(split, {}), metric, task) for model in models.values())
    wanted = task.wanted(split, metric)
    if wanted not in ("stay", "") and metric in models.get("retrained", {}).get(split, {}):
        wanted = "as retrained"
    return [split, wanted, *cells]


def _cell(values: dict[str, Any], metric: str, task: Task) -> str:
    value, low, high = (values.get(key) for key in (metric, f"{metric}_low", f"{metric}_high"))
    # A metric of a user's compute_metrics can be a list.
    if not isinstance(value, int | float):
        return "-"
    text = task.text(metric, value)
    if metric == "loss" or low is None or high is None:
        return text
    return f"{text} [{task.text(metric, low)}, {task.text(metric, high)}]"


def align(rows: Table, markdown: bool) -> str:
    """A table as text: two columns of names on the left, then right-aligned numbers."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        [*map(str.ljust, row[:2], widths), *map(str.rjust, row[2:], widths[2:])] for row in rows
    ]
    rule = ["-" * width for width in widths]
    if not markdown:
        return "\n".join("  ".join(line).rstrip() for line in [lines[0], rule, *lines[1:]])
    rule[2:] = [dashes[:-1] + ":" for dashes in rule[2:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])


def checks_by_step(history: list[dict] | None) -> dict[int, dict[str, Any]]:
    """{step: all metrics that were checked at it}.

    In a history the metrics of each split are a row of their own.
    """
    checks: dict[int, dict[str, Any]] = {}
    for row in history or []:
        checks.setdefault(row["step"], {}).update(
            {name: value for name, value in row.items() if name.startswith("check_")}
        )
    return checks
