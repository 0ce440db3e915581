"""Plots a comparison's frontier: the score of what is kept over the score of what is forgotten."""

from pathlib import Path

from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ...report.tasks import score_label
from .plan import Comparison
from .runs import FAILED
from .summary import are_in_percent, grouped


def plot_frontier(rows: list[dict], comparison: Comparison, path: Path) -> None:
    """Saves the figure that `draw_frontier` makes."""
    FigureCanvasAgg(draw_frontier(rows, comparison)).print_figure(path, dpi=130)


def draw_frontier(rows: list[dict], comparison: Comparison) -> Figure:
    """Draws each reported run's checks as a line and its end as a point, with one panel for each
    combination of the varied options."""
    forgotten, panels_of = comparison.forgotten, grouped(rows, comparison)
    figure = Figure(figsize=(6.4 * len(panels_of), 4.4), layout="constrained")
    panels = figure.subplots(1, len(panels_of), sharey=True, squeeze=False)[0]
    many = len(comparison.methods)
    if many <= 10:
        # The stubs do not say that this map is a list of colors.
        colors = colormaps["tab10"].colors  # type: ignore[attr-defined]
    else:
        colors = colormaps["turbo"].resampled(many)(range(many))
    for axes, (values, methods) in zip(panels, panels_of.items()):
        for method, color in zip(comparison.methods, colors):
            label = method
            for row in methods[method]:
                if row["ended"] == FAILED:
                    continue
                axes.plot(*zip(*row["curve"] or [()]), color=color, alpha=0.4, linewidth=1)
                if row.get(forgotten) is not None and row.get(comparison.score) is not None:
                    axes.plot(row[forgotten], row[comparison.score], "o", color=color, label=label)
                    label = None
        axes.set(
            xlabel=score_label(forgotten, are_in_percent(rows)),
            title=", ".join(f"{name} {value}" for name, value in zip(comparison.vary, values)),
        )
        axes.legend(fontsize=8, ncols=1 + many // 8)
    panels[0].set_ylabel(score_label(comparison.score, are_in_percent(rows)))
    return figure
