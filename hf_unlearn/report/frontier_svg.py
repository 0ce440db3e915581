"""The frontier of a run, forgetting against keeping, in the coordinates of an SVG picture."""

import math
from typing import Any

from ..metrics.metric_names import finite
from .result_tables import checks_by_step
from .results import Results
from .tasks import Task

# In the units of the viewBox.
WIDTH, HEIGHT, MARGIN = 560, 320, 48


def frontier(results: Results, task: Task) -> dict[str, Any] | None:
    """Plots the first metric of unseen data (test) against that of the forgotten data (forget).

    Returns:
        The axes' labels and ticks, the path of the checks as (x, y, step), and one point for each
        model as (x, y, name), in the units of the viewBox. None if no check, or no model, has
        both metrics.
    """
    metric = next(iter(task.metrics))
    path, models = _path(results, metric), _model_points(results, metric)
    if not path or not models:
        return None
    points = [*(point[:2] for point in path), *models.values()]
    x_ticks, y_ticks = (ticks([point[axis] for point in points]) for axis in (0, 1))

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
        up = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        left = MARGIN + across * (WIDTH - 2 * MARGIN)
        down = HEIGHT - MARGIN - up * (HEIGHT - 2 * MARGIN)
        return round(left, 1), round(down, 1)

    return {
        "width": WIDTH,
        "height": HEIGHT,
        "margin": MARGIN,
        "metric": task.metrics[metric],
        "x_label": _axis_label("forget", metric, task),
        "y_label": _axis_label("test", metric, task),
        "x_ticks": [(place(tick, 0)[0], f"{tick:g}") for tick in x_ticks],
        "y_ticks": [(place(0, tick)[1], f"{tick:g}") for tick in y_ticks],
        "path": [(*place(x, y), step) for x, y, step in path],
        "models": [(*place(x, y), name) for name, (x, y) in models.items()],
    }


def _path(results: Results, metric: str) -> list[tuple[float, float, int]]:
    """(forget, test, step) of the checks that have both."""
    names = (f"check_forget_{metric}", f"check_test_{metric}")
    return [
        (check[names[0]], check[names[1]], step)
        for step, check in checks_by_step(results.history).items()
        if all(finite(check.get(name)) for name in names)
    ]


def _model_points(results: Results, metric: str) -> dict[str, tuple[float, float]]:
    """{model: (forget, test)} of the models that have both."""
    points = {}
    for name, splits in results.models().items():
        forget, test = (splits.get(split, {}).get(metric) for split in ("forget", "test"))
        if finite(forget) and finite(test):
            points[name] = forget, test
    return points


def _axis_label(split: str, metric: str, task: Task) -> str:
    return f"{task.metrics[metric]} – {task.splits[split][0]}"


def ticks(values: list[float]) -> list[float]:
    """Round ticks that span all values and 0."""
    bottom = min(0, *values)
    # All values can be 0.
    top = max(0, bottom + 1e-9, *values)
    width = top - bottom
    step = 10 ** math.floor(math.log10(width))
    step = next(step * factor for factor in (0.2, 0.5, 1, 2) if width / (step * factor) <= 6)
    return [step * tick for tick in range(math.floor(bottom / step), math.ceil(top / step) + 1)]
