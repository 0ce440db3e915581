"""What the reported rows come to: the table, and the frontier of what is kept over what is
forgotten."""

import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

from ...metrics.scales import GIVEN, as_given
from ...report.result_tables import align
from .plan import Comparison
from .runs import FAILED
from .selection import means_of_the_fullest, present, scored


def table(rows: list[dict], comparison: Comparison) -> str:
    """Mean and standard deviation over targets and seeds, and for each level how many runs came to
    it, and in how many a method was the best. The best mean, of those methods whose runs came to it
    most often, is in bold."""
    metric = comparison.score.rpartition("_")[2]
    columns = [name for name in rows[0] if name.endswith("_" + metric) or name in comparison.scores]
    lines, text = [], _number(rows)
    for varied, methods in _grouped(rows, comparison).items():
        known = {name: _scores(methods, name, comparison) for name in comparison.scores}
        for method, group in methods.items():
            setting = ", ".join(
                f"{name} {value}" for name, value in json.loads(group[0]["setting"]).items()
            )
            reached = [len(present(known[name][method])) for name in comparison.scores]
            means = [_mean((row.get(name) for row in group), text) for name in columns]
            for name in comparison.scores:
                if _is_best(known[name], method, comparison):
                    means[columns.index(name)] = f"**{means[columns.index(name)]}**"
            wins = [_wins(known[name], method, comparison) for name in comparison.scores]
            counts = [
                ", ".join(f"{count}/{len(group)}" for count in each) for each in (reached, wins)
            ]
            lines.append([*map(str, varied), method, setting, counts[0], *means, counts[1]])
    return align(
        [[*comparison.vary, "method", "setting chosen", "reached", *columns, "best"], *lines],
        markdown=True,
    )


def tables_by_target(rows: list[dict], comparison: Comparison) -> str:
    """For each level a table of what every method came to on each target: the mean over the seeds
    that came to it, and how many those were where not all did. A target's best mean, of those
    methods that came to it most often, is in bold."""
    targets = list(dict.fromkeys(row["target"] for row in rows))
    parts = []
    for name in comparison.scores:
        lines = defaultdict(list)
        for target in targets:
            for varied, methods in _grouped(
                [row for row in rows if row["target"] == target], comparison
            ).items():
                scores = _scores(methods, name, comparison)
                for method, values in scores.items():
                    cell = _mean_and_count(
                        values, _number(rows), best=_is_best(scores, method, comparison)
                    )
                    lines[(*map(str, varied), method)].append(cell)
        heading = [*comparison.vary, "method", *map(str, targets)]
        written = align(
            [heading, *([*first, *texts] for first, texts in lines.items())], markdown=True
        )
        parts.append(f"{name}, by {comparison.target}:\n\n{written}")
    return "\n\n".join(parts)


def pairs(rows: list[dict], comparison: Comparison) -> str:
    """The first method beside each other one, at each level, in the runs where both came to it: how
    many those are, in how many the first was ahead, and its score minus the other's, its mean,
    standard deviation and range. "" for one method."""
    first, *others = comparison.methods
    lines, text = [], _number(rows)
    for varied, methods in _grouped(rows, comparison).items():
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
    heading = [*comparison.vary, "score", "method", "beside", "ahead", "difference", "range"]
    return "In pairs, where both came to the level:\n\n" + align([heading, *lines], markdown=True)


def _number(rows: list[dict]) -> Callable[[float], str]:
    """How the numbers of the rows are written: percent, or on the scale of a recipe's own
    metrics."""
    return as_given if any(row.get("scale") == GIVEN for row in rows) else "{:.1f}".format


def _mean_and_count(values: list[float | None], text: Callable[[float], str], best: bool) -> str:
    known = present(values)
    if not known:
        return "-"
    mean = text(statistics.mean(known))
    count = f" ({len(known)}/{len(values)})" if len(known) < len(values) else ""
    return (f"**{mean}**" if best else mean) + count


def _grouped(rows: list[dict], comparison: Comparison) -> dict[tuple, dict[str, list[dict]]]:
    """The rows of each combination of varied options, by their method."""
    groups = defaultdict(lambda: defaultdict(list))
    for row in rows:
        groups[tuple(row[name] for name in comparison.vary)][row["method"]].append(row)
    return groups


def _scores(
    methods: dict[str, list[dict]], name: str, comparison: Comparison
) -> dict[str, list[float | None]]:
    """Each method's scores by that name, where they count."""
    return {
        method: [scored(row, name, comparison) for row in group]
        for method, group in methods.items()
    }


def _mean(values: Iterable[float | None], text: Callable[[float], str]) -> str:
    values = present(values)
    if not values:
        return "-"
    return f"{text(statistics.mean(values))} ± {text(statistics.stdev(values) if len(values) > 1 else 0.0)}"


def _is_best(scores: dict[str, list], method: str, comparison: Comparison) -> bool:
    """Whether a method has the best mean, of those that have the most scores."""
    means = means_of_the_fullest(scores)
    return method in means and means[method] == comparison.best(means.values())


def _wins(scores: dict[str, list], method: str, comparison: Comparison) -> int:
    """In how many runs a method's score is better than all others', or the only one."""
    won = 0
    for values in zip(*scores.values()):
        known = {name: value for name, value in zip(scores, values) if value is not None}
        won += [
            name for name, value in known.items() if value == comparison.best(known.values())
        ] == [method]
    return won


def plot(rows: list[dict], comparison: Comparison, path: Path) -> None:
    """What is kept over what is forgotten: the checks of each reported run, and its end as a
    point."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    forgotten, panels_of = comparison.forgotten, _grouped(rows, comparison)
    figure = Figure(figsize=(6.4 * len(panels_of), 4.4), layout="constrained")
    panels = figure.subplots(1, len(panels_of), sharey=True, squeeze=False)[0]
    many = len(comparison.methods)
    colors = (
        colormaps["tab10"].colors if many <= 10 else colormaps["turbo"].resampled(many)(range(many))
    )
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
            xlabel=forgotten,
            title=", ".join(f"{name} {value}" for name, value in zip(comparison.vary, values)),
        )
        axes.legend(fontsize=8, ncols=1 + many // 8)
    panels[0].set_ylabel(comparison.score)
    FigureCanvasAgg(figure).print_figure(path, dpi=130)
