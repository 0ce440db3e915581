"""The tables of a comparison: by method, by target, and in pairs of methods."""

import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable

from ...metrics.scales import GIVEN, as_given
from ...report.result_tables import align
from ...report.tasks import metric_of
from .plan import Comparison
from .runs import AUC
from .tuning import means_with_most_scores, present, scored


def table_by_method(rows: list[dict], comparison: Comparison) -> str:
    """The mean and standard deviation over targets and seeds of each method.

    The columns "reached" and "best" count, for each level, the runs that reached it and those in
    which the method had the best score. The best mean is in bold; only the methods that reached the
    level in the most runs compete for it. The last rows are the models that the runs started from
    and the retrained ones."""
    metric = metric_of(comparison.score)
    columns = [
        name
        for name in rows[0]
        if "_" in name and metric_of(name) == metric or name in (*comparison.scores, AUC)
    ]
    lines, texts = [], {name: "{:.2f}".format if name == AUC else _number(rows) for name in columns}
    for varied, methods in grouped(rows, comparison).items():
        scores = {name: _scores(methods, name, comparison) for name in comparison.scores}
        for method, group in methods.items():
            setting = ", ".join(
                f"{name} {value}" for name, value in json.loads(group[0]["setting"]).items()
            )
            reached = [len(present(scores[name][method])) for name in comparison.scores]
            means = [_mean((row.get(name) for row in group), texts[name]) for name in columns]
            for name in comparison.scores:
                if _is_best(scores[name], method, comparison):
                    means[columns.index(name)] = f"**{means[columns.index(name)]}**"
            wins = [_wins(scores[name], method, comparison) for name in comparison.scores]
            counts = [
                ", ".join(f"{count}/{len(group)}" for count in each) for each in (reached, wins)
            ]
            lines.append([*map(str, varied), method, setting, counts[0], *means, counts[1]])
        for model, values in _references(next(iter(methods.values()))).items():
            means = [_mean((one.get(name) for one in values), texts[name]) for name in columns]
            lines.append([*map(str, varied), f"({model})", "", "", *means, ""])
    return align(
        [[*comparison.vary, "method", "setting chosen", "reached", *columns, "best"], *lines],
        markdown=True,
    )


def _references(rows: list[dict]) -> dict[str, list[dict]]:
    """What each run's original and retrained model measured; empty for rows without it."""
    references = [row["references"] for row in rows if row.get("references")]
    return {
        model: [one[model] for one in references] for model in (references[0] if references else ())
    }


def tables_by_target(rows: list[dict], comparison: Comparison) -> str:
    """For each level, a table of each method's mean score on each target.

    The mean is over the seeds that reached the level; their number follows where some did not. A
    target's best mean is in bold; only the methods that reached the level in the most seeds compete
    for it."""
    targets = list(dict.fromkeys(row["target"] for row in rows))
    heading = [*comparison.vary, "method", *map(str, targets)]
    parts = []
    for name in comparison.scores:
        lines = defaultdict(list)
        for target in targets:
            target_rows = [row for row in rows if row["target"] == target]
            for varied, methods in grouped(target_rows, comparison).items():
                scores = _scores(methods, name, comparison)
                for method, values in scores.items():
                    best = _is_best(scores, method, comparison)
                    cell = _mean_and_count(values, _number(rows), best)
                    lines[(*map(str, varied), method)].append(cell)
        table = align([heading, *([*keys, *cells] for keys, cells in lines.items())], markdown=True)
        parts.append(f"{name}, by {comparison.target}:\n\n{table}")
    return "\n\n".join(parts)


def pairs(rows: list[dict], comparison: Comparison) -> str:
    """Compares the first method with each other one at each level, in the runs where both reached
    it.

    The columns are the runs in which the first method was better, out of all of them, and the
    difference of the scores (first minus other): mean, standard deviation and range. "" where there
    is only one method."""
    first, *others = comparison.methods
    lines, text = [], _number(rows)
    for varied, methods in grouped(rows, comparison).items():
        for name in comparison.scores:
            scores = _scores(methods, name, comparison)
            for other in others:
                both = [pair for pair in zip(scores[first], scores[other]) if None not in pair]
                ahead = _wins(dict(zip((first, other), zip(*both))), first, comparison)
                differences = [mine - its for mine, its in both]
                spread = f"{text(min(differences))} to {text(max(differences))}" if both else "-"
                counts, mean = f"{ahead}/{len(both)}", _mean(differences, text)
                lines.append([*map(str, varied), name, first, other, counts, mean, spread])
    if not lines:
        return ""
    heading = [*comparison.vary, "score", "method", "compared with", "ahead", "difference", "range"]
    return "In the runs where both methods reached the level:\n\n" + align(
        [heading, *lines], markdown=True
    )


def _number(rows: list[dict]) -> Callable[[float], str]:
    """Formats the rows' numbers: percent, or the scale of a recipe's own metrics."""
    return "{:.1f}".format if are_in_percent(rows) else as_given


def are_in_percent(rows: list[dict]) -> bool:
    """Whether the rows' rates are in percent, not on the scale of a recipe's own metrics."""
    return all(row.get("scale") != GIVEN for row in rows)


def _mean_and_count(values: list[float | None], text: Callable[[float], str], best: bool) -> str:
    numbers = present(values)
    if not numbers:
        return "-"
    mean = text(statistics.mean(numbers))
    count = f" ({len(numbers)}/{len(values)})" if len(numbers) < len(values) else ""
    return (f"**{mean}**" if best else mean) + count


def grouped(rows: list[dict], comparison: Comparison) -> dict[tuple, dict[str, list[dict]]]:
    """The rows by the values of the varied options, then by method."""
    groups: defaultdict[tuple, dict[str, list[dict]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        groups[tuple(row[name] for name in comparison.vary)][row["method"]].append(row)
    return groups


def _scores(
    methods: dict[str, list[dict]], name: str, comparison: Comparison
) -> dict[str, list[float | None]]:
    """Each method's scores in column `name`; None where a run does not count."""
    return {
        method: [scored(row, name, comparison) for row in group]
        for method, group in methods.items()
    }


def _mean(values: Iterable[float | None], text: Callable[[float], str]) -> str:
    """Mean ± standard deviation of the known values."""
    values = present(values)
    if not values:
        return "-"
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{text(statistics.mean(values))} ± {text(deviation)}"


def _is_best(scores: dict[str, list], method: str, comparison: Comparison) -> bool:
    """Whether a method has the best mean among those with the most scores."""
    means = means_with_most_scores(scores)
    return method in means and means[method] == comparison.best(means.values())


def _wins(scores: dict[str, list], method: str, comparison: Comparison) -> int:
    """The number of runs in which a method's score is better than all others', or the only one."""
    won = 0
    for values in zip(*scores.values()):
        values_by_method = {name: value for name, value in zip(scores, values) if value is not None}
        won += [
            name
            for name, value in values_by_method.items()
            if value == comparison.best(values_by_method.values())
        ] == [method]
    return won
