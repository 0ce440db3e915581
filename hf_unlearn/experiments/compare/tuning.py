"""Chooses each method's setting from the rows of its tuning runs."""

import statistics
from collections import defaultdict
from collections.abc import Iterable

from .plan import Comparison
from .runs import FAILED, as_json

# A reason in `UnlearnTrainer.stopping`.
REACHED = "target reached"


def best_setting(rows: list[dict], method: str, varied: dict, comparison: Comparison) -> dict:
    """The setting with the best mean score at the first level, among those that reached it on the
    most targets. Where none reached it, the one that forgot the most. Without
    `tune_on`, a method's only setting.

    Args:
        varied: the values of the varied options for which to choose.

    Raises:
        ValueError: all runs failed.
    """
    if not comparison.tune_on:
        # Then each method has one setting.
        return comparison.methods[method][0]
    scores, forgetting = defaultdict(list), defaultdict(float)
    for row in rows:
        if row["method"] == method and all(row[name] == value for name, value in varied.items()):
            scores[row["setting"]].append(scored(row, comparison.scores[0], comparison))
            if row["ended"] != FAILED:
                levels = [forgotten for forgotten, _ in row["curve"]] or [0]
                forgetting[row["setting"]] += abs(levels[-1] - levels[0])
    if not forgetting:
        raise ValueError(f"no run of {method} finished {varied or ''}: see log.txt of its runs")
    means = means_with_most_scores(scores)
    if means:
        best = comparison.best(means, key=means.get)
    else:
        best = max(forgetting, key=forgetting.get)
    return next(setting for setting in comparison.methods[method] if as_json(setting) == best)


def means_with_most_scores(scores: dict[str, list[float | None]]) -> dict[str, float]:
    """The mean of each list, only for the lists with the most scores; {} where none has a score."""
    numbers = {name: present(values) for name, values in scores.items()}
    count = max(map(len, numbers.values()))
    return {
        name: statistics.mean(values)
        for name, values in numbers.items()
        if values and len(values) == count
    }


def scored(row: dict, name: str, comparison: Comparison) -> float | None:
    """A row's score in column `name`; None where it does not count, because `match` is empty and
    the run did not reach its target."""
    return row.get(name) if comparison.match or row["ended"] == REACHED else None


def present(values: Iterable[float | None]) -> list[float]:
    """The values that are not None."""
    return [value for value in values if value is not None]
