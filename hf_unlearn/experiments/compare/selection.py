"""Which of a method's settings is the best, by the rows of its runs."""

import statistics
from collections import defaultdict
from collections.abc import Iterable

from .plan import Comparison
from .runs import FAILED, as_json

REACHED = "target reached"  # of `UnlearnTrainer.stopping`


def best_setting(rows: list[dict], method: str, varied: dict, comparison: Comparison) -> dict:
    """The setting with the best mean score at the first level, among those that have come to it on
    the most targets; where none has come to it, the one that has gone furthest.

    Raises:
        ValueError: all runs failed.
    """
    scores, way = defaultdict(list), defaultdict(float)
    for row in rows:
        if row["method"] == method and all(row[name] == value for name, value in varied.items()):
            scores[row["setting"]].append(scored(row, comparison.scores[0], comparison))
            if row["ended"] != FAILED:
                forgotten = [x for x, _ in row["curve"]] or [0]
                way[row["setting"]] += abs(forgotten[-1] - forgotten[0])
    if not way:
        raise ValueError(
            f"no run of {method} came to its end {varied or ''}: see log.txt of its runs"
        )
    means = means_of_the_fullest(scores)
    best = comparison.best(means, key=means.get) if means else max(way, key=way.get)
    return next(setting for setting in comparison.methods[method] if as_json(setting) == best)


def means_of_the_fullest(scores: dict[str, list[float | None]]) -> dict[str, float]:
    """The means of those that have the most scores; none where all have none."""
    known = {name: present(values) for name, values in scores.items()}
    most = max(map(len, known.values()))
    return {
        name: statistics.mean(values)
        for name, values in known.items()
        if values and len(values) == most
    }


def scored(row: dict, name: str, comparison: Comparison) -> float | None:
    """A row's score, where it counts: at the end of a run that reached its target, or at a level of
    `match`."""
    return row.get(name) if comparison.match or row["ended"] == REACHED else None


def present(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]
