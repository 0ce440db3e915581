"""The results of a run as plots."""

import math
from pathlib import Path

import numpy as np

from ..metrics.scales import as_given
from .tasks import TASKS, Task, finite

COLOURS = {  # Okabe & Ito: told apart with any colour vision
    "forget": "#D55E00",
    "forget_test": "#E69F00",
    "retain": "#009E73",
    "test": "#0072B2",
    "other": "#CC79A7",
}
MARKERS = {"forget": "o", "forget_test": "^", "retain": "s", "test": "D", "other": "v"}


def plot_history(
    history: list[dict],
    path,
    *,
    task: Task = TASKS["speakers"],
    metric: str | None = None,
    splits=("forget", "test", "retain"),
    original: dict | None = None,
    retrained: dict | None = None,
    title: str = "Forgetting over the optimizer steps",
) -> Path:
    """PNG of `check_<split>_<metric>` over the steps, one line per split, and the other models as
    levels.

    Args:
        history: rows such as those of `trainer.state.log_history`; those without a step and a check
            are passed over.
        metric: the first of the task's, if not given.
        original, retrained: {split: {metric: value}}, drawn as dotted and dashed levels in the
            split's colour.

    Raises:
        ValueError: no row of the history holds a check.
    """
    # drawn without pyplot: no window, no global state
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    metric = metric or next(iter(task.metrics))
    curves = {split: _curve(history, f"check_{split}_{metric}") for split in splits}
    curves = {split: curve for split, curve in curves.items() if curve}
    if not curves:
        raise ValueError(
            f"No row of the history has a step and check_<split>_{metric}: set check_steps so that "
            "checks run."
        )
    figure = Figure(figsize=(8.5, 4.8), layout="constrained")
    axes = figure.add_subplot()
    ends = [
        _draw(axes, split, curve, metric, task, original, retrained)
        for split, curve in curves.items()
    ]
    top = axes.get_ylim()[1]
    bottom = (
        min(0, axes.get_ylim()[0])
        if any(value < 0 for curve in curves.values() for _, value in curve)
        else 0
    )
    axes.set_ylim(bottom, top)
    _label_ends(axes, ends, top - bottom)
    axes.set_title(title, loc="left", fontweight="bold", pad=26)
    axes.text(
        0,
        1.03,
        _legend(task, original, retrained),
        transform=axes.transAxes,
        color="0.35",
        fontsize=9,
    )
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(task.metrics.get(metric, metric))
    axes.grid(axis="y", color="0.92")
    axes.spines[["top", "right"]].set_visible(False)
    FigureCanvasAgg(figure).print_figure(path, dpi=150)
    return Path(path)


def _curve(history, key):
    return [(row["step"], row[key]) for row in history if "step" in row and finite(row.get(key))]


def _draw(axes, split, curve, metric, task, original, retrained):
    """One split's curve and levels; returns (last value, label, colour) for the label at its
    end."""
    colour, (meaning, _) = COLOURS.get(split, "0.3"), task.splits.get(split, (split, ""))
    steps, values = zip(*curve)
    marker = {
        "marker": MARKERS.get(split, "."),
        "markersize": 4.5,
        "markeredgecolor": "white",
        "markeredgewidth": 0.6,
    }
    axes.plot(steps, values, color=colour, linewidth=2, zorder=3, clip_on=False, **marker)
    # trained on here and by both other models: three lines on top of each other
    if split == "retain":
        original = retrained = None
    for levels, style in ((original, ":"), (retrained, (0, (6, 3)))):
        level = ((levels or {}).get(split) or {}).get(metric)
        if level is not None:
            axes.axhline(level, color=colour, linestyle=style, linewidth=1.3, alpha=0.75)
    wanted = task.wanted(split, metric)
    wish = {"": "", "stay": ": should stay"}.get(wanted, f": {wanted} is wanted")
    percent = task.percent and metric != "loss"
    end = (
        f"{values[-1]:.0f} %"
        if percent
        else f"{values[-1]:.2f}"
        if metric == "loss"
        else as_given(values[-1])
    )
    return values[-1], f"{meaning}\n{end}{wish}", colour


def _label_ends(axes, ends, top):
    """Each curve's label to the right of its end, moved apart where two would overlap."""
    gap, height = 0.13 * top, -math.inf
    for value, label, colour in sorted(ends):
        height = max(value, height + gap)
        axes.annotate(
            label, (1, height), xycoords=("axes fraction", "data"), xytext=(10, 0), textcoords="offset points",
            va="center", color=colour, fontsize=9, annotation_clip=False,
        )  # fmt: skip


def _legend(task, original, retrained):
    kinds = ["solid: while unlearning"]
    kinds += ["dotted: original model"] if original else []
    kinds += [f"dashed: retrained without the {task.forgotten}"] if retrained else []
    return "   ".join(kinds)


def plot_pictures(groups: dict[str, list[tuple]], path, title: str, *, columns: int = 8) -> Path:
    """PNG with pictures (PIL images), each with its text above, in groups under their headings."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [math.ceil(len(pictures) / columns) for pictures in groups.values()]
    figure = Figure(
        figsize=(1.2 * columns, sum(1.5 * count + 0.4 for count in rows) + 0.4),
        layout="constrained",
    )
    parts = figure.subfigures(
        len(groups), 1, squeeze=False, height_ratios=[1.5 * count + 0.4 for count in rows]
    ).flat
    for part, count, (heading, pictures) in zip(parts, rows, groups.items()):
        part.suptitle(heading, x=0.01, ha="left", fontsize=10)
        grid = list(part.subplots(count, columns, squeeze=False).flat)
        for axes in grid:
            axes.set_axis_off()
        for axes, (picture, text) in zip(grid, pictures):
            axes.imshow(np.asarray(picture), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axes.set_title(text, fontsize=9)
    figure.suptitle(title, fontweight="bold")
    FigureCanvasAgg(figure).print_figure(path, dpi=120)
    return Path(path)
