"""The results of a run as tables."""

from ..metrics.privacy import ATTACKS
from .tasks import MODELS, task_of

MODULES = {"scikit-learn": "sklearn"}


def results_table(results: dict, *, metrics=None, markdown: bool = False) -> str:
    """Splits x models, one table per metric, with the 95 % intervals where there are some; under
    100 columns.

    Args:
        results: holds, for some of `MODELS`, {split: {metric: value}}; None leaves it out.
            Its task says which metrics and splits there are, and in which order.
        metrics: names; those of the task where there are none.

    Raises:
        ValueError: no model with metrics.
    """
    return "\n\n".join(align(rows, markdown) for rows in results_table_rows(results, metrics))


def results_table_rows(results: dict, metrics=None) -> list[list[list[str]]]:
    """The tables of `results_table`, as rows of cells with the headings first."""
    models = {name: results[name] for name in MODELS if results.get(name)}
    if not models:
        raise ValueError(
            f"results has none of {', '.join(MODELS)}: evaluate a model first (keys: "
            f"{list(results)})."
        )
    task = task_of(results)
    present = {split for splits in models.values() for split in splits}
    splits = [split for split in task.splits if split in present] + sorted(
        present - set(task.splits)
    )
    tables = []
    for metric in metrics or task.metrics:
        if any(metric in values for model in models.values() for values in model.values()):
            rows = [_row(split, models, metric, task) for split in splits]
            tables.append([[task.metrics.get(metric, metric), "wanted", *models], *rows])
    return tables


def comparison_table(
    title: str, models: dict[str, dict], wanted: dict[str, str], *, markdown: bool = False
) -> str:
    """Numbers x models, for what has no splits; `wanted` says for each number, in order, which way
    is better."""
    return align(_comparison_rows(title, models, wanted), markdown)


def _comparison_rows(
    title: str, models: dict[str, dict], wanted: dict[str, str]
) -> list[list[str]]:
    models = {name: models[name] for name in MODELS if models.get(name)}

    def cell(value):
        return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)

    rows = [
        [name, want, *(cell(values.get(name)) for values in models.values())]
        for name, want in wanted.items()
    ]
    return [[title, "wanted", *models], *rows]


def further_tables(results: dict, *, markdown: bool = False) -> str:
    """Scores, membership attacks and relearning speed side by side for the models, as far as they
    were measured."""
    return "\n\n".join(align(rows, markdown) for rows in further_tables_rows(results))


def further_tables_rows(results: dict) -> list[list[list[str]]]:
    """The tables of `further_tables`, as rows of cells with the headings first."""
    tables = []
    if results.get("scores"):
        tables.append(_comparison_rows("Score", results["scores"], {"uis": "down", "aus": "up"}))
    if results.get("attacks"):
        known = results.get("retrained") is not None
        measured = set().union(*results["attacks"].values())
        wanted = {
            name: "as retrained" if known and attack.wanted else attack.wanted
            for name, attack in ATTACKS.items()
            if name in measured
        }
        tables.append(_comparison_rows("Membership attack", results["attacks"], wanted))
    if results.get("relearning"):
        tables.append(
            _comparison_rows("Relearning", results["relearning"], {"steps": "as retrained"})
        )
    return tables


def _row(split, models, metric, task):
    return [
        split,
        task.wanted(split, metric),
        *(_cell(model.get(split, {}), metric, task) for model in models.values()),
    ]


def _cell(values, metric, task):
    value, low, high = (values.get(key) for key in (metric, f"{metric}_low", f"{metric}_high"))
    if not isinstance(value, int | float):  # a user's metric can be a list, too
        return "-"
    text = task.text(metric, value)
    if metric == "loss" or low is None or high is None:
        return text
    return f"{text} [{task.text(metric, low)}, {task.text(metric, high)}]"


def align(rows, markdown):
    """Rows of cells as text: names to the left, numbers to the right, a rule under the first
    row."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        [*map(str.ljust, row[:2], widths), *map(str.rjust, row[2:], widths[2:])] for row in rows
    ]
    rule = ["-" * width for width in widths]
    if not markdown:
        return "\n".join("  ".join(line).rstrip() for line in [lines[0], rule, *lines[1:]])
    rule[2:] = [dashes[:-1] + ":" for dashes in rule[2:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])


def checks_by_step(history: list[dict] | None) -> dict[int, dict]:
    """{step: all that was checked at it}; in a history each split's metrics are a row of their
    own."""
    checks: dict[int, dict] = {}
    for row in history or []:
        checks.setdefault(row["step"], {}).update(
            {name: x for name, x in row.items() if name.startswith("check_")}
        )
    return checks
