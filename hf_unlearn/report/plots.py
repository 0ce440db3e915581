"""The results of a run as plots."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL.Image import Image

from ..metrics.metric_names import finite
from ..metrics.scales import as_given
from .tasks import TASKS, Task

# Figures are drawn without pyplot, which would open windows and keep global state.

# Okabe and Ito's palette, whose colours can be told apart with any colour vision.
COLOURS = {
    "forget": "#D55E00",
    "forget_test": "#E69F00",
    "retain": "#009E73",
    "test": "#0072B2",
}
MARKERS = {"forget": "o", "forget_test": "^", "retain": "s", "test": "D"}
# The splits that are drawn.
SPLITS = ("forget", "forget_test", "test", "retain")
# Wanted direction -> how a label says it.
WISHES = {
    "up": "should rise",
    "down": "should fall",
    "stay": "should not change",
    "as test": "should equal test",
}

# {split: {metric: value}} of one model
Levels = dict[str, dict[str, Any]] | None
# (step, value) of one split's metric
Curve = list[tuple[int, float]]
# (height, text, colour) of the label at a curve's end
Label = tuple[float, str, str]


def plot_history(
    history: list[dict],
    path: str | Path,
    *,
    task: Task = TASKS["speakers"],
    original: Levels = None,
    retrained: Levels = None,
    final: tuple[int, Levels] | None = None,
    check_samples: int | None = None,
) -> Path:
    """Draws the task's first metric over the steps as a PNG, with one line per split.

    Args:
        history: rows such as those of `trainer.state.log_history`. Rows without a step or without
            `check_<split>_<metric>` are ignored.
        path: of the PNG.
        original, retrained: {split: {metric: value}}, drawn as dotted and dashed horizontal lines
            in the split's colour.
        final: the step of the saved model, and {split: {metric: value}} of its evaluation, drawn as
            large markers.
        check_samples: how many samples each check uses, for a note.

    Returns:
        The path.

    Raises:
        ValueError: no row of the history holds a check.
    """
    metric = next(iter(task.metrics))
    curves = _curves(history, metric)
    last = {split: point for split in SPLITS if (point := _final_point(final, split, metric))}
    if not curves:
        raise ValueError(
            f"no row of the history has a step and check_<split>_{metric}: set check_steps so that "
            "checks run"
        )
    figure = Figure(figsize=(8.5, 4.8), layout="constrained")
    axes = figure.add_subplot()
    labels = []
    for split in [split for split in SPLITS if split in curves or split in last]:
        # All three models were trained on the retain set, so its lines would coincide.
        levels = (None, None) if split == "retain" else (original, retrained)
        levels = [_level(one, split, metric) for one in levels]
        curve = curves.get(split, [])
        _draw_split(axes, split, curve, levels, last.get(split))
        _, value = last.get(split) or curve[-1]
        labels.append(_label(split, value, metric, task, levels[1]))
    low, top = axes.get_ylim()
    negative = any(value < 0 for curve in curves.values() for _, value in curve)
    bottom = min(0, low) if negative else 0
    axes.set_ylim(bottom, top)
    _draw_labels(axes, labels, 0.13 * (top - bottom))
    _describe(axes, "Forgetting over the optimizer steps", _legend(task, original, retrained))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("optimizer steps of unlearning" + _note(check_samples, bool(last)))
    axes.set_ylabel(task.metrics[metric])
    FigureCanvasAgg(figure).print_figure(path, dpi=150)
    return Path(path)


def _curves(history: list[dict], metric: str) -> dict[str, Curve]:
    """The curve of each split that was checked."""
    curves = {split: _curve(history, f"check_{split}_{metric}") for split in SPLITS}
    # A single dot shows no trend, and its samples may differ from those of the final evaluation.
    fewest = 2 if any(len(curve) > 1 for curve in curves.values()) else 1
    return {split: curve for split, curve in curves.items() if len(curve) >= fewest}


def _curve(history: list[dict], key: str) -> Curve:
    return [(row["step"], row[key]) for row in history if "step" in row and finite(row.get(key))]


def _final_point(
    final: tuple[int, Levels] | None, split: str, metric: str
) -> tuple[int, float] | None:
    step, levels = final or (0, None)
    value = _level(levels, split, metric)
    return (step, value) if finite(value) else None


def _level(levels: Levels, split: str, metric: str) -> float | None:
    return ((levels or {}).get(split) or {}).get(metric)


def _note(check_samples: int | None, has_final: bool) -> str:
    """The note under the x axis on which samples were evaluated."""
    checks = f"checks on at most {check_samples} samples" if check_samples else ""
    final = "large markers: final evaluation" if has_final else ""
    notes = "; ".join(filter(None, [checks, final]))
    return f"\n({notes})" if notes else ""


def _draw_split(
    axes: Axes,
    split: str,
    curve: Curve,
    levels: Sequence[float | None],
    last: tuple[int, float] | None,
) -> None:
    """Draws a split's curve, the values of the original and the retrained model, and the final
    value."""
    colour, marker = COLOURS[split], MARKERS[split]
    for level, style in zip(levels, (":", (0, (6, 3)))):
        if level is not None:
            axes.axhline(level, color=colour, linestyle=style, linewidth=1.3, alpha=0.75)
    drawn = {"color": colour, "marker": marker, "clip_on": False}
    if curve:
        edge = {"markeredgecolor": "white", "markeredgewidth": 0.6}
        axes.plot(*zip(*curve), linewidth=2, zorder=3, markersize=4.5, **drawn, **edge)
    if last:
        axes.plot(*last, zorder=4, markersize=9, markeredgecolor="0.15", **drawn)


def _label(split: str, last: float, metric: str, task: Task, target: float | None) -> Label:
    """The label of a curve: what the split is, its last value, and the retrained model's value, or
    the wanted direction."""
    meaning, _ = task.about(split)
    wanted = task.wanted(split, metric)
    wish = f", {WISHES.get(wanted, wanted)}" if wanted else ""
    if target is not None and wanted not in ("stay", ""):
        wish = f", target: {_value(target, metric, task)}"
    return last, f"{meaning}\n{_value(last, metric, task)}{wish}", COLOURS[split]


def _value(value: float, metric: str, task: Task) -> str:
    if metric == "loss":
        return f"{value:.2f}"
    return f"{value:.0f} %" if task.percent else as_given(value)


def _draw_labels(axes: Axes, labels: list[Label], distance: float) -> None:
    """Writes the labels to the right of the curves' ends, at least `distance` apart."""
    height = -math.inf
    for value, text, colour in sorted(labels):
        height = max(value, height + distance)
        axes.annotate(
            text,
            (1, height),
            xycoords=("axes fraction", "data"),
            xytext=(10, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            fontsize=9,
            annotation_clip=False,
        )


def _legend(task: Task, original: Levels, retrained: Levels) -> str:
    kinds = ["solid: during unlearning"]
    kinds += ["dotted: original model"] if original else []
    kinds += [f"dashed: retrained without the {task.forgotten}"] if retrained else []
    return "   ".join(kinds)


def _describe(axes: Axes, title: str, legend: str) -> None:
    axes.set_title(title, loc="left", fontweight="bold", pad=26)
    axes.text(0, 1.03, legend, transform=axes.transAxes, color="0.35", fontsize=9)
    axes.grid(axis="y", color="0.92")
    axes.spines[["top", "right"]].set_visible(False)


def plot_pictures(
    groups: dict[str, list[tuple[Image, str]]], path: str | Path, title: str, *, columns: int = 8
) -> Path:
    """Draws pictures as a PNG, in groups under their headings, each with its text above it.

    Args:
        groups: heading -> (picture, text).
    """
    rows = [math.ceil(len(pictures) / columns) for pictures in groups.values()]
    # Inches
    heights = [1.5 * count + 0.4 for count in rows]
    figure = Figure(figsize=(1.2 * columns, sum(heights) + 0.4), layout="constrained")
    parts = figure.subfigures(len(groups), 1, squeeze=False, height_ratios=heights).flat
    for part, count, (heading, pictures) in zip(parts, rows, groups.items()):
        part.suptitle(heading, x=0.01, ha="left", fontsize=10)
        cells = list(part.subplots(count, columns, squeeze=False).flat)
        for axes in cells:
            axes.set_axis_off()
        for axes, (picture, text) in zip(cells, pictures):
            axes.imshow(np.asarray(picture), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axes.set_title(text, fontsize=9)
    figure.suptitle(title, fontweight="bold")
    FigureCanvasAgg(figure).print_figure(path, dpi=120)
    return Path(path)
