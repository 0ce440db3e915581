"""Compares methods through a recipe: each is tuned with the same number of settings on targets that are not reported.

    hf-unlearn compare recipes/demo/compare.yaml

A cell is one run of the recipe in a process and a folder of its own, whose `results.json` says that it is done: what is
interrupted goes on where it was. Models that the recipe trains (original, retrained, shadow models) are kept in
`output_dir/models`, unless `options` name another `models_dir`, and serve every cell that needs the same ones.
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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import Path

from tqdm.auto import tqdm

from .config import read_yaml
from .report import align
from .tasks import task_of

REACHED = "target reached"  # of `UnlearnTrainer.stopping`


@dataclass(frozen=True)
class Comparison:
    """What is compared, as the YAML file says it.

    recipe, config: the recipe's script, and the configuration that all runs share.
    output_dir: where the cells, `runs.csv`, `table.md` and `frontier.png` go.
    target: the option that says what is forgotten (`forget_speakers`).
    tune_on, report_on: its values to choose each method's setting on, and those to report; they share none.
    methods: name -> settings to try, each a dict of options; as many for every method.
    score: `<split>_<metric>` of the unlearned model, smaller is better among the runs that reached `stop_when`.
    seeds: of the reported runs; settings are chosen with the first.
    vary: option -> values; for each combination, everything is done anew.
    options: further options of every run.
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
    seeds: list = field(default_factory=lambda: [0])
    vary: dict = field(default_factory=dict)
    options: dict = field(default_factory=dict)
    processes: int = 1

    def __post_init__(self):
        tried = {method: len(settings) for method, settings in self.methods.items()}
        if len(set(tried.values())) != 1 or not all(tried.values()):
            raise ValueError(
                f"a fair comparison tries as many settings of every method, at least one, but got {tried}"
            )
        if both := set(self.tune_on) & set(self.report_on):
            raise ValueError(f"{', '.join(map(str, both))} in tune_on and report_on: report what was not tuned on")

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
        return {**comparison.options, **self.varied, **self.setting, **given}

    def folder(self, comparison: Comparison) -> Path:
        digest = hashlib.sha256(json.dumps([comparison.config, self.options(comparison)], sort_keys=True).encode())
        return Path(comparison.output_dir) / self.method / f"{self.target}-{digest.hexdigest()[:10]}"

    def row(self, comparison: Comparison) -> dict:
        """What `runs.csv` says of it: the first metric of every split, and why the run ended."""
        row = {"phase": self.phase, "method": self.method, "target": self.target, "seed": self.seed, **self.varied}
        row["setting"] = json.dumps(self.setting)
        path = self.folder(comparison) / "results.json"
        if not path.exists():
            return {**row, "ended": "failed"}
        results = json.loads(path.read_text())
        metric = next(iter(task_of(results).metrics))
        row |= {"ended": results["stopping"]["reason"], "step": results["stopping"]["step"]}
        return row | {f"{split}_{metric}": values.get(metric) for split, values in results["unlearned"].items()}


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
    rows = run_cells(tried, comparison)
    reported = [
        Cell("report", method, best_setting(rows, method, values, comparison.score), target, seed, values)
        for values in varied
        for method in comparison.methods
        for target in comparison.report_on
        for seed in comparison.seeds
    ]
    rows += run_cells(reported, comparison)
    folder = Path(comparison.output_dir)
    write_rows(folder / "runs.csv", rows)
    text = table([row for row in rows if row["phase"] == "report"], comparison)
    (folder / "table.md").write_text(text + "\n")
    plot([row for row in rows if row["phase"] == "report"], comparison, folder / "frontier.png")
    return text


def run_cells(cells: list[Cell], comparison: Comparison) -> list[dict]:
    """Runs the cells that have no results yet, so many at a time, and returns the rows of all."""
    waiting = [cell for cell in cells if not (cell.folder(comparison) / "results.json").exists()]
    with ThreadPoolExecutor(comparison.processes) as pool:
        done = pool.map(lambda cell: _run(cell, comparison), waiting)
        list(tqdm(done, desc=cells[0].phase if cells else "", total=len(waiting), unit="run"))
    return [cell.row(comparison) for cell in cells]


def _run(cell: Cell, comparison: Comparison) -> None:
    folder = cell.folder(comparison)
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


def best_setting(rows: list[dict], method: str, varied: dict, score: str) -> dict:
    """The setting with the lowest mean score over the targets, among those that reached the target on every one.

    Raises:
        ValueError: none did.
    """
    scores = defaultdict(list)
    for row in rows:
        if row["method"] == method and all(row[name] == value for name, value in varied.items()):
            scores[row["setting"]].append(row.get(score) if row["ended"] == REACHED else None)
    means = {setting: statistics.mean(values) for setting, values in scores.items() if None not in values}
    if not means:
        raise ValueError(f"no setting of {method} reached stop_when {varied or ''}: see log.txt of its runs")
    return json.loads(min(means, key=means.get))


def write_rows(path: Path, rows: list[dict]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def table(rows: list[dict], comparison: Comparison) -> str:
    """Mean and standard deviation over targets and seeds; the best score in bold; how often a method's is the lowest."""
    columns = [name for name in rows[0] if name.endswith("_" + comparison.score.rpartition("_")[2])]
    groups = defaultdict(list)
    for row in rows:
        groups[tuple(row[name] for name in comparison.vary), row["method"]].append(row)
    lines = []
    for (varied, method), group in groups.items():
        rivals = {other: members for (values, other), members in groups.items() if values == varied}
        cells = [_mean(group, name) for name in columns]
        if _score(group, comparison) == min(_score(members, comparison) for members in rivals.values()):
            at = columns.index(comparison.score)
            cells[at] = f"**{cells[at]}**"
        pairs = zip(*(members for other, members in rivals.items() if other != method))
        lowest = sum(
            own.get(comparison.score, 1e9) < min(rival.get(comparison.score, 1e9) for rival in others)
            for own, others in zip(group, pairs)
        )
        setting = ", ".join(f"{name} {value}" for name, value in json.loads(group[0]["setting"]).items())
        reached = sum(row["ended"] == REACHED for row in group)
        lines.append([*map(str, varied), method, setting, f"{reached}/{len(group)}", *cells, f"{lowest}/{len(group)}"])
    return align(
        [[*comparison.vary, "method", "setting chosen", "reached", *columns, "lowest"], *lines], markdown=True
    )


def _mean(rows: list[dict], name: str) -> str:
    values = [row[name] for row in rows if row.get(name) is not None]
    if not values:
        return "-"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values) if len(values) > 1 else 0:.1f}"


def _score(rows: list[dict], comparison: Comparison) -> float:
    values = [row[comparison.score] for row in rows if row.get(comparison.score) is not None]
    return statistics.mean(values) if values else float("inf")


def plot(rows: list[dict], comparison: Comparison, path: Path) -> None:
    """What is kept over what is forgotten, one point for each reported run."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    forgotten = "forget_" + comparison.score.rpartition("_")[2]
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes, shapes = figure.add_subplot(), itertools.cycle("osD^v")
    for varied in dict.fromkeys(tuple(row[name] for name in comparison.vary) for row in rows):
        shape = next(shapes)
        for number, method in enumerate(comparison.methods):
            points = [
                (row[forgotten], row[comparison.score])
                for row in rows
                if row["method"] == method
                and tuple(row[name] for name in comparison.vary) == varied
                and row.get(comparison.score) is not None
            ]
            label = ", ".join([method, *(f"{name} {value}" for name, value in zip(comparison.vary, varied))])
            if points:
                axes.plot(*zip(*points), shape, color=f"C{number}", label=label, alpha=0.8)
    axes.set(xlabel=f"{forgotten} (higher: more is forgotten)", ylabel=f"{comparison.score} (lower: more is kept)")
    axes.legend(fontsize=8)
    FigureCanvasAgg(figure).print_figure(path, dpi=130)
