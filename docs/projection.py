"""Draws the figure of the projection: python docs/projection.py docs/projection.png."""

import sys
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def draw(path: str | Path) -> None:
    """Writes the figure to a file: u, a retained gradient g_n, and u_perp orthogonal to it."""
    u, g = np.array([2.0, 2.4]), np.array([3.0, 0.6])
    parallel = (u @ g) / (g @ g) * g
    u_perp = u - parallel
    figure = Figure(figsize=(5.2, 2.8), layout="constrained")
    axes = figure.add_subplot(aspect="equal")
    for vector, colour, name, offset in (
        (u, "#D55E00", "$u$: forget gradient", (6, 4)),
        (g, "#009E73", "$g_n$: gradient of a retained sample", (-40, -16)),
        (u_perp, "#0072B2", "$u_\\perp$: what is left", (-40, 12)),
    ):
        arrow = {"arrowstyle": "-|>", "color": colour, "lw": 2, "shrinkA": 0}
        axes.annotate("", vector, (0, 0), arrowprops=arrow)
        axes.annotate(name, vector, xytext=offset, textcoords="offset points", color=colour)
    axes.plot(*zip(u, u_perp), "--", color="0.6", linewidth=1)
    axes.plot(*zip(u, parallel), "--", color="0.6", linewidth=1)
    axes.set(xlim=(-1.2, 4.8), ylim=(-0.2, 2.8))
    axes.axis("off")
    FigureCanvasAgg(figure).print_figure(path, dpi=130)


if __name__ == "__main__":
    draw(sys.argv[1])
