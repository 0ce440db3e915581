"""Compares methods through a recipe: each is tuned with the same number of settings on targets that are not reported.

    hf-unlearn compare recipes/demo/compare.yaml

A cell is one run of the recipe in a process and a folder of its own, whose `results.json` says that it is done: what is
interrupted goes on where it was; on another machine, from the rows of an earlier `runs.csv` (`known`). Models that the
recipe trains (original, retrained, shadow models) are kept in `output_dir/models`, unless `options` name another
`models_dir`, and serve every cell that needs the same ones.
"""

import csv
import hashlib
import itertools
import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import Path

from tqdm.auto import tqdm

from .config import read_yaml
from .report import align, checks_by_step
from .tasks import ACCURACY, ERROR_RATES, task_of

REACHED = "target reached"  # of `UnlearnTrainer.stopping`
FAILED = "failed"
GREATER_IS_BETTER = {**dict.fromkeys(ERROR_RATES, False), **dict.fromkeys(ACCURACY, True), "loss": False}


@dataclass(frozen=True)
class Comparison:
    """What is compared, as the YAML file says it.

    recipe, config: the recipe's script, and the configuration that all runs share.
    output_dir: where the cells, `runs.csv`, `table.md` and `frontier.png` go.
    target: the option that says what is forgotten (`forget_speakers`).
    tune_on, report_on: its values to choose each method's setting on, and those to report; they share none.
    methods: name -> settings to try, each a dict of options; as many for every method.
    score: `<split>_<metric>` of the unlearned model. Without `match`, of the runs that reached `stop_when`, as they
        ended.
    greater_is_better: of the score; without it, true for accuracies and false for error rates and losses.
    match: what is forgotten, `<split>_<metric>` -> levels: numbers, or `retrained` for the retrained model's own. The
        score is then read off a run's checks at each level, so that methods are compared at equal forgetting. Of the
        settings that come to the most levels, the one with the best mean over them is chosen.
    seeds: of the reported runs; settings are chosen with the first.
    vary: option -> values; for each combination, everything is done anew.
    known: an earlier `runs.csv`, whose cells are not run again: it has all that the table and the plot need. A cell is
        known by its options and the path of the configuration, so take out what a change of either file's contents, of
        the data or of a model has made obsolete.
    options: further options of every run; `{target}` and `{seed}` in them stand for the run's own.
    processes: runs at the same time.
    """

    recipe: str
    config: str
    output_dir: str
    target: str
    tune_on: list
    report_on: list
    methods: dict
    score: str
    match: dict = field(default_factory=dict)
    seeds: list = field(default_factory=lambda: [0])
    vary: dict = field(default_factory=dict)
    options: dict = field(default_factory=dict)
    known: str | None = None
    greater_is_better: bool | None = None
    processes: int = 1

    def __post_init__(self):
        tried = {method: len(settings) for method, settings in self.methods.items()}
        if len(set(tried.values())) != 1 or not all(tried.values()):
            raise ValueError(
                f"a fair comparison tries as many settings of every method, at least one, but got {tried}"
            )
        if both := set(self.tune_on) & set(self.report_on):
            raise ValueError(f"{', '.join(map(str, both))} in tune_on and report_on: report what was not tuned on")
        if len(self.match) > 1:
            raise ValueError(f"match speaks of {', '.join(self.match)}: give one metric, with all its levels")
        metric = self.score.rpartition("_")[2]
        if self.greater_is_better is None and metric not in GREATER_IS_BETTER:
            raise ValueError(
                f"whether a greater {metric} is a better score is not known, only that of "
                f"{', '.join(GREATER_IS_BETTER)}: set greater_is_better"
            )

    @property
    def forgotten(self) -> str:
        """The metric that says how much is forgotten: the horizontal axis of the frontier."""
        return next(iter(self.match), "forget_" + self.score.rpartition("_")[2])

    @property
    def scores(self) -> list[str]:
        """The columns by which methods are compared, one for each level of `match`."""
        return [f"{self.score} at {level}" for levels in self.match.values() for level in levels] or [self.score]

    def best(self, values: Iterable, key: Callable | None = None):
        """The one with the best score: a score itself, or what `key` gives the score of."""
        metric = self.score.rpartition("_")[2]
        greater = GREATER_IS_BETTER[metric] if self.greater_is_better is None else self.greater_is_better
        return (max if greater else min)(values, key=key)

    @classmethod
    def read(cls, path: str | Path) -> "Comparison":
        """Raises ValueError: no such file, or a key too many or too few."""
        given = read_yaml(path)
        known = {option.name for option in fields(cls)}
        if set(given) - known:
            raise ValueError(f"unknown in {path}: {', '.join(sorted(set(given) - known))}; known: {', '.join(known)}")
        try:
            return cls(**given)
        except TypeError as error:
            raise ValueError(f"{path}: {error}") from error


@dataclass(frozen=True)
class Cell:
    """One run of the recipe."""

    phase: str  # tune or report
    method: str
    setting: dict
    target: object
    seed: int
    varied: dict

    def options(self, comparison: Comparison) -> dict:
        given = {"method": self.method, comparison.target: self.target, "seed": self.seed}
        shared = {
            name: value.replace("{target}", str(self.target)).replace("{seed}", str(self.seed))
            if isinstance(value, str)
            else value
            for name, value in comparison.options.items()
        }
        return {**shared, **self.varied, **self.setting, **given}

    def key(self, comparison: Comparison) -> str:
        digest = hashlib.sha256(json.dumps([comparison.config, self.options(comparison)], sort_keys=True).encode())
        return digest.hexdigest()[:10]

    def results(self, comparison: Comparison) -> Path:
        """Exists once the cell has been run."""
        return Path(comparison.output_dir) / self.method / f"{self.target}-{self.key(comparison)}" / "results.json"

    def row(self, comparison: Comparison, known: dict[str, dict]) -> dict:
        """What `runs.csv` says of it: what it is, and what was measured here, or by one of the `known` rows."""
        row = {"phase": self.phase, "method": self.method, "target": self.target, "seed": self.seed, **self.varied}
        row |= {"setting": json.dumps(self.setting), "cell": self.key(comparison)}
        path = self.results(comparison)
        if path.exists():
            return {**row, **_measured(json.loads(path.read_text()), comparison)}
        return {**row, **known.get(row["cell"], {"ended": FAILED}), **row}


def _measured(results: dict, comparison: Comparison) -> dict:
    """Why a run ended, the first metric of every split, the score at each level, and the `curve` of its checks."""
    metric, curve = next(iter(task_of(results).metrics)), _curve(results, comparison)
    row = {"ended": results["stopping"]["reason"], "step": results["stopping"]["step"]}
    row |= {f"{split}_{metric}": values.get(metric) for split, values in results["unlearned"].items()}
    for forgotten, levels in comparison.match.items():
        for level in levels:
            at = _of_retrained(results, forgotten) if level == "retrained" else float(level)
            row[f"{comparison.score} at {level}"] = reached_at(curve, at)
    return {**row, "curve": [[round(value, 3) for value in check] for check in curve]}


def _curve(results: dict, comparison: Comparison) -> list[tuple[float, float]]:
    """What is forgotten, and the score, in each check of a run from the original model on."""
    names = f"check_{comparison.forgotten}", f"check_{comparison.score}"
    checks = [tuple(map(check.get, names)) for check in checks_by_step(results.get("history")).values()]
    return [check for check in checks if None not in check]


def reached_at(curve: Sequence[tuple[float, float]], level: float) -> float | None:
    """The second value where the first one comes to a level, for the first time; linear between two points.

    None if it never does.
    """
    for (x, y), (next_x, next_y) in itertools.pairwise(curve):
        if min(x, next_x) <= level <= max(x, next_x) and x != next_x:
            return y + (next_y - y) * (level - x) / (next_x - x)
    return None


def _of_retrained(results: dict, metric: str) -> float:
    split, _, name = metric.rpartition("_")
    if not results.get("retrained"):
        raise ValueError(f"match asks for the retrained model's {metric}, but there is none: set gold in options")
    return results["retrained"][split][name]


def compare(comparison: Comparison) -> str:
    """Runs what has not been run, writes runs.csv, table.md and frontier.png, and returns the table."""
    varied = [dict(zip(comparison.vary, values)) for values in itertools.product(*comparison.vary.values())]
    tried = [
        Cell("tune", method, setting, target, comparison.seeds[0], values)
        for values in varied
        for method, settings in comparison.methods.items()
        for setting in settings
        for target in comparison.tune_on
    ]
    known = known_rows(comparison)
    rows = run_cells(tried, comparison, known)
    reported = [
        Cell("report", method, best_setting(rows, method, values, comparison), target, seed, values)
        for values in varied
        for method in comparison.methods
        for target in comparison.report_on
        for seed in comparison.seeds
    ]
    reports = run_cells(reported, comparison, known)
    folder = Path(comparison.output_dir)
    write_rows(folder / "runs.csv", rows + reports)
    text = table(reports, comparison)
    (folder / "table.md").write_text(text + "\n")
    plot(reports, comparison, folder / "frontier.png")
    return text


def run_cells(cells: list[Cell], comparison: Comparison, known: dict[str, dict]) -> list[dict]:
    """Runs the cells that have no results yet and are not `known`, so many at a time, and returns the rows of all."""
    waiting = [cell for cell in cells if cell.key(comparison) not in known and not cell.results(comparison).exists()]
    with ThreadPoolExecutor(comparison.processes) as pool:
        done = pool.map(lambda cell: _run(cell, comparison), waiting)
        list(tqdm(done, desc=cells[0].phase if cells else "", total=len(waiting), unit="run"))
    return [cell.row(comparison, known) for cell in cells]


def known_rows(comparison: Comparison) -> dict[str, dict]:
    """The rows of `comparison.known` by their cell, without those of runs that failed.

    Raises:
        ValueError: it has no columns cell and curve, or not those of the levels of `match`.
    """
    if comparison.known is None:
        return {}
    with open(comparison.known, newline="") as file:
        rows = list(csv.DictReader(file))
    if missing := {"cell", "curve", *comparison.scores} - set(rows[0] if rows else ()):
        raise ValueError(
            f"known: {comparison.known} has no column {', '.join(sorted(missing))}, so it is of an older version or of "
            "another comparison: leave it out"
        )
    return {row["cell"]: {name: _number(text) for name, text in row.items()} for row in rows if row["ended"] != FAILED}


def _number(text: str) -> float | str | None:
    """A value of a CSV file as it was before it was written."""
    try:
        return json.loads(text) if text else None
    except ValueError:
        return text


def _run(cell: Cell, comparison: Comparison) -> None:
    folder = cell.results(comparison).parent
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, comparison.recipe, comparison.config, "--output_dir", str(folder)]
    shared = {"models_dir": str(Path(comparison.output_dir) / "models")}  # no part of what a cell is
    for name, value in {**shared, **cell.options(comparison)}.items():
        command += [f"--{name}", *map(_word, value if isinstance(value, list) else [value])]
    threads = max(1, (os.cpu_count() or 1) // comparison.processes)
    with open(folder / "log.txt", "w") as log:
        subprocess.run(command, stdout=log, stderr=log, env={"OMP_NUM_THREADS": str(threads), **os.environ})


def _word(value) -> str:
    return json.dumps(value) if isinstance(value, dict) else str(value)


def best_setting(rows: list[dict], method: str, varied: dict, comparison: Comparison) -> dict:
    """The setting with the best mean score, among those that have come to the most targets' levels; where none has come
    to any, the one that has gone furthest.

    Raises:
        ValueError: all runs failed.
    """
    scores, way = defaultdict(list), defaultdict(float)
    for row in rows:
        if row["method"] == method and all(row[name] == value for name, value in varied.items()):
            scores[row["setting"]] += [_scored(row, name, comparison) for name in comparison.scores]
            if row["ended"] != FAILED:
                forgotten = [x for x, _ in row["curve"]] or [0]
                way[row["setting"]] += abs(forgotten[-1] - forgotten[0])
    if not way:
        raise ValueError(f"no run of {method} came to its end {varied or ''}: see log.txt of its runs")
    known = {setting: _present(values) for setting, values in scores.items()}
    most = max(map(len, known.values()))
    if not most:
        return json.loads(max(way, key=way.get))
    means = {setting: statistics.mean(values) for setting, values in known.items() if len(values) == most}
    return json.loads(comparison.best(means, key=means.get))


def _scored(row: dict, name: str, comparison: Comparison) -> float | None:
    """A row's score, where it counts: at the end of a run that reached its target, or at a level of `match`."""
    return row.get(name) if comparison.match or row["ended"] == REACHED else None


def write_rows(path: Path, rows: list[dict]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def table(rows: list[dict], comparison: Comparison) -> str:
    """Mean and standard deviation over targets and seeds, and for each level how many runs came to it, and in how many a
    method was the best. The best mean, of those methods whose runs came to it most often, is in bold."""
    metric = comparison.score.rpartition("_")[2]
    columns = [name for name in rows[0] if name.endswith("_" + metric) or name in comparison.scores]
    groups = defaultdict(lambda: defaultdict(list))
    for row in rows:
        groups[tuple(row[name] for name in comparison.vary)][row["method"]].append(row)
    lines = []
    for varied, methods in groups.items():
        known = {
            name: {method: [_scored(row, name, comparison) for row in group] for method, group in methods.items()}
            for name in comparison.scores
        }
        for method, group in methods.items():
            setting = ", ".join(f"{name} {value}" for name, value in json.loads(group[0]["setting"]).items())
            reached = [len(_present(known[name][method])) for name in comparison.scores]
            means = [_mean(row.get(name) for row in group) for name in columns]
            for name in comparison.scores:
                if _is_best(known[name], method, comparison):
                    means[columns.index(name)] = f"**{means[columns.index(name)]}**"
            wins = [_wins(known[name], method, comparison) for name in comparison.scores]
            counts = [", ".join(f"{count}/{len(group)}" for count in each) for each in (reached, wins)]
            lines.append([*map(str, varied), method, setting, counts[0], *means, counts[1]])
    return align([[*comparison.vary, "method", "setting chosen", "reached", *columns, "best"], *lines], markdown=True)


def _present(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _mean(values: Iterable[float | None]) -> str:
    values = _present(values)
    if not values:
        return "-"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values) if len(values) > 1 else 0:.1f}"


def _is_best(scores: dict[str, list], method: str, comparison: Comparison) -> bool:
    """Whether a method has the best mean, of those that have the most scores."""
    known = {name: _present(values) for name, values in scores.items()}
    most = max(map(len, known.values()))
    means = {name: statistics.mean(values) for name, values in known.items() if values and len(values) == most}
    return method in means and means[method] == comparison.best(means.values())


def _wins(scores: dict[str, list], method: str, comparison: Comparison) -> int:
    """In how many runs a method's score is better than all others', or the only one."""
    won = 0
    for values in zip(*scores.values()):
        known = {name: value for name, value in zip(scores, values) if value is not None}
        won += [name for name, value in known.items() if value == comparison.best(known.values())] == [method]
    return won


def plot(rows: list[dict], comparison: Comparison, path: Path) -> None:
    """What is kept over what is forgotten: the checks of each reported run, and its end as a point."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    forgotten, panels_of = comparison.forgotten, defaultdict(list)
    for row in rows:
        panels_of[tuple(row[name] for name in comparison.vary)].append(row)
    figure = Figure(figsize=(6.4 * len(panels_of), 4.4), layout="constrained")
    panels = figure.subplots(1, len(panels_of), sharey=True, squeeze=False)[0]
    many = len(comparison.methods)
    colors = colormaps["tab10"].colors if many <= 10 else colormaps["turbo"].resampled(many)(range(many))
    for axes, (values, shown) in zip(panels, panels_of.items()):
        for method, color in zip(comparison.methods, colors):
            label = method
            for row in shown:
                if row["method"] != method or row["ended"] == FAILED:
                    continue
                axes.plot(*zip(*row["curve"] or [()]), color=color, alpha=0.4, linewidth=1)
                if row.get(forgotten) is not None and row.get(comparison.score) is not None:
                    axes.plot(row[forgotten], row[comparison.score], "o", color=color, label=label)
                    label = None
        axes.set(xlabel=forgotten, title=", ".join(f"{name} {value}" for name, value in zip(comparison.vary, values)))
        axes.legend(fontsize=8, ncols=1 + many // 8)
    panels[0].set_ylabel(comparison.score)
    FigureCanvasAgg(figure).print_figure(path, dpi=130)
