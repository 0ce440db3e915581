"""The runs of a comparison: their options, where their results are, and what they measured."""

import csv
import hashlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm.auto import tqdm

from ...files.yaml_files import PlainScalar, resolved
from ...metrics.scales import GIVEN
from ...report.file_names import RESULTS
from ...report.result_tables import checks_by_step
from ...report.results import Results
from ...report.tasks import metric_of, task_of
from ..catalogue import configuration_path, script_path
from .plan import Comparison

FAILED = "failed"
# The area under the curve of a membership attack, from 0 to 1.
AUC = "loss_auc"


@dataclass(frozen=True)
class Cell:
    """One run of the recipe.

    phase: "tune" or "report".
    setting: the options to tune.
    target: what is forgotten, a value of the option `Comparison.target`.
    varied: the options of `Comparison.vary`.
    """

    phase: str
    method: str
    setting: dict
    target: object
    seed: int
    varied: dict

    def options(self, comparison: Comparison) -> dict:
        """All options of the run."""
        run_options = {"method": self.method, comparison.target: self.target, "seed": self.seed}
        shared = {
            name: value.replace("{target}", str(self.target)).replace("{seed}", str(self.seed))
            if isinstance(value, str) and "{" in value
            else value
            for name, value in comparison.options.items()
        }
        return {**shared, **self.varied, **self.setting, **run_options}

    def key(self, comparison: Comparison) -> str:
        """A hash of the configuration's path and the options, by which `known` rows are found."""
        options = _canonical(self.options(comparison))
        written = json.dumps([comparison.config, options], sort_keys=True)
        return hashlib.sha256(written.encode()).hexdigest()[:10]

    def results(self, comparison: Comparison) -> Path:
        """The path of the run's results, which exist once it has ended."""
        folder = f"{self.target}-{self.key(comparison)}"
        return Path(comparison.output_dir) / self.method / folder / RESULTS

    def row(self, comparison: Comparison, rows_by_key: dict[str, dict]) -> dict:
        """The run's row in `runs.csv`: what it is, and what was measured, here or in a `known`
        row."""
        row = {
            "phase": self.phase,
            "method": self.method,
            "target": self.target,
            "seed": self.seed,
            **self.varied,
        }
        row |= {"setting": as_json(self.setting), "cell": self.key(comparison)}
        path = self.results(comparison)
        if path.exists():
            return {**row, **_measured(Results.from_dict(json.loads(path.read_text())), comparison)}
        return {**row, **rows_by_key.get(row["cell"], {"ended": FAILED}), **row}


def _measured(results: Results, comparison: Comparison) -> dict:
    """Why a run ended, the task's first metric and those of the comparison of every split, the
    score at each level, the same values of the original and the retrained model (`references`), and
    the `curve` of its checks."""
    task, curve = task_of(results), _curve(results, comparison)
    compared = map(metric_of, (comparison.score, comparison.forgotten))
    metrics = dict.fromkeys([next(iter(task.metrics)), *compared])
    stopping = results.stopping or {}
    row = {"ended": stopping["reason"], "step": stopping["step"]}
    row |= _values(results, "unlearned", metrics)
    for forgotten, levels in comparison.match.items():
        for level in levels:
            at = _value_of_retrained(results, forgotten) if level == "retrained" else float(level)
            row[f"{comparison.score} at {level}"] = reached_at(curve, at)
    if not task.percent:
        row["scale"] = GIVEN
    references = {
        model: _values(results, model, metrics)
        for model in ("original", "retrained")
        if getattr(results, model)
    }
    row["references"] = references
    digits = 3 if task.percent else 6
    return {**row, "curve": [[round(value, digits) for value in check] for check in curve]}


def _values(results: Results, model: str, metrics: Iterable[str]) -> dict:
    """The metrics of a model on every split, and how well an attack on its losses tells members."""
    values = {
        f"{split}_{metric}": measured.get(metric)
        for metric in metrics
        for split, measured in getattr(results, model).items()
    }
    auc = (results.attacks or {}).get(model, {}).get(AUC)
    return values if auc is None else {**values, AUC: auc}


def _curve(results: Results, comparison: Comparison) -> list[tuple[float, float]]:
    """(forgotten, score) in each check of a run, starting with the original model."""
    names = f"check_{comparison.forgotten}", f"check_{comparison.score}"
    checks = [map(check.get, names) for check in checks_by_step(results.history).values()]
    return [(f, s) for f, s in checks if f is not None and s is not None]


def reached_at(curve: Sequence[tuple[float, float]], level: float) -> float | None:
    """The score where a run first reaches a level of forgetting, interpolated linearly between
    checks.

    Args:
        curve: (forgotten, score) in each check.

    Returns:
        None if the run never reaches the level.
    """
    for (x, y), (next_x, next_y) in itertools.pairwise(curve):
        if min(x, next_x) <= level <= max(x, next_x) and x != next_x:
            return y + (next_y - y) * (level - x) / (next_x - x)
    return None


def _value_of_retrained(results: Results, metric: str) -> float:
    if not results.retrained:
        raise ValueError(
            f"match asks for the retrained model's {metric}, but there is none: set gold in options"
        )
    name = metric_of(metric)
    return results.retrained[metric.removesuffix(f"_{name}")][name]


def run_cells(
    cells: list[Cell], comparison: Comparison, rows_by_key: dict[str, dict]
) -> list[dict]:
    """Runs the cells that have neither results nor a known row yet, `processes` at a time. Returns
    the rows of all cells."""
    waiting = [
        cell
        for cell in cells
        if cell.key(comparison) not in rows_by_key and not cell.results(comparison).exists()
    ]
    with ThreadPoolExecutor(comparison.processes) as pool:
        done = pool.map(lambda cell: run_cell(cell, comparison), waiting)
        list(tqdm(done, desc=cells[0].phase if cells else "", total=len(waiting), unit="run"))
    return [cell.row(comparison, rows_by_key) for cell in cells]


def known_rows(comparison: Comparison) -> dict[str, dict]:
    """The rows of the file `known` by their cell's key, without failed runs.

    Raises:
        ValueError: the columns "cell", "curve" or those of the levels of `match` are missing.
    """
    if comparison.known is None:
        return {}
    with open(comparison.known, newline="") as file:
        rows = list(csv.DictReader(file))
    if missing := {"cell", "curve", *comparison.scores} - set(rows[0] if rows else ()):
        raise ValueError(
            f"known: {comparison.known} has no column {', '.join(sorted(missing))}, so it comes "
            "from an older version or another comparison: leave it out"
        )
    return {
        row["cell"]: {name: _number(text) for name, text in row.items()}
        for row in rows
        if row["ended"] != FAILED
    }


def write_rows(path: Path, rows: list[dict]) -> None:
    """Writes `runs.csv`, with the columns of all rows."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            values = row.items()
            writer.writerow({k: json.dumps(v) if isinstance(v, dict) else v for k, v in values})


def _number(text: str) -> float | str | None:
    """A value of a CSV file, in the type it had before it was written."""
    try:
        return json.loads(text) if text else None
    except ValueError:
        return text


def run_cell(cell: Cell, comparison: Comparison) -> None:
    """Runs the recipe in a process of its own, whose output goes to log.txt."""
    folder = cell.results(comparison).parent
    folder.mkdir(parents=True, exist_ok=True)
    script, config = script_path(comparison.recipe), configuration_path(comparison.config)
    command = [sys.executable, str(script), str(config), "--output_dir", str(folder)]
    # `models_dir` is the same for all cells, so it is not among the options that tell cells apart.
    shared = {"models_dir": str(Path(comparison.output_dir) / "models")}
    for name, value in {**shared, **cell.options(comparison)}.items():
        command += [f"--{name}", *map(_argument, value if isinstance(value, list) else [value])]
    threads = max(1, (os.cpu_count() or 1) // comparison.processes)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    with open(folder / "log.txt", "w") as log:
        subprocess.run(command, stdout=log, stderr=log, env=environment)


def _argument(value: object) -> str:
    """A value as the recipe's command line takes it."""
    return json.dumps(resolved(value)) if isinstance(value, dict) else str(value)


def as_json(setting: dict) -> str:
    """A setting in the form that `runs.csv` has."""
    return json.dumps(_canonical(setting))


def _canonical(value: object) -> object:
    """Turns the words of a YAML file into numbers and booleans, by which rows of earlier versions
    are known, where that cannot make two words equal: 10, but not 010; 0.5 and 5.0e-1, but not
    0.50."""
    if isinstance(value, dict):
        return {name: _canonical(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    if not isinstance(value, PlainScalar):
        return value
    read = resolved(value)
    exact = json.dumps(read) == value or isinstance(read, float) and "e" in value.lower()
    return read if exact and read is not None else str(value)
