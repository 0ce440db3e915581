"""What a run tells its user: a table, a plot, results.json, and the environment that made them."""

import csv
import json
import math
import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from transformers.utils import logging

from .metrics.privacy import ATTACKS
from .scales import as_given
from .tasks import MODELS, TASKS, Task, finite, task_of

PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "evaluate",
    "jiwer",
    "librosa",
    "peft",
    "scikit-learn",
    "numpy",
)
logger = logging.get_logger(__name__)
MODULES = {"scikit-learn": "sklearn"}


def results_table(results: dict, *, metrics=None, markdown: bool = False) -> str:
    """Splits x models, one table per metric, with the 95 % intervals where there are some; under 100 columns.

    Args:
        results: holds, for some of `MODELS`, {split: {metric: value}}; None leaves it out.
            Its task says which metrics and splits there are, and in which order.
        metrics: names; those of the task where there are none.

    Raises:
        ValueError: no model with metrics.
    """
    return "\n\n".join(align(rows, markdown) for rows in results_table_rows(results, metrics))


def results_table_rows(results: dict, metrics=None) -> list[list[list[str]]]:
    """The tables of `results_table`, as rows of cells with the headings first."""
    models = {name: results[name] for name in MODELS if results.get(name)}
    if not models:
        raise ValueError(f"results has none of {', '.join(MODELS)}: evaluate a model first (keys: {list(results)}).")
    task = task_of(results)
    present = {split for splits in models.values() for split in splits}
    splits = [split for split in task.splits if split in present] + sorted(present - set(task.splits))
    tables = []
    for metric in metrics or task.metrics:
        if any(metric in values for model in models.values() for values in model.values()):
            rows = [_row(split, models, metric, task) for split in splits]
            tables.append([[task.metrics.get(metric, metric), "wanted", *models], *rows])
    return tables


def comparison_table(title: str, models: dict[str, dict], wanted: dict[str, str], *, markdown: bool = False) -> str:
    """Numbers x models, for what has no splits; `wanted` says for each number, in order, which way is better."""
    return align(_comparison_rows(title, models, wanted), markdown)


def _comparison_rows(title: str, models: dict[str, dict], wanted: dict[str, str]) -> list[list[str]]:
    models = {name: models[name] for name in MODELS if models.get(name)}

    def cell(value):
        return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)

    rows = [[name, want, *(cell(values.get(name)) for values in models.values())] for name, want in wanted.items()]
    return [[title, "wanted", *models], *rows]


def further_tables(results: dict, *, markdown: bool = False) -> str:
    """Scores, membership attacks and relearning speed side by side for the models, as far as they were measured."""
    return "\n\n".join(align(rows, markdown) for rows in further_tables_rows(results))


def further_tables_rows(results: dict) -> list[list[list[str]]]:
    """The tables of `further_tables`, as rows of cells with the headings first."""
    tables = []
    if results.get("scores"):
        tables.append(_comparison_rows("Score", results["scores"], {"uis": "down", "aus": "up"}))
    if results.get("attacks"):
        known = results.get("retrained") is not None
        measured = set().union(*results["attacks"].values())
        wanted = {
            name: "as retrained" if known and attack.wanted else attack.wanted
            for name, attack in ATTACKS.items()
            if name in measured
        }
        tables.append(_comparison_rows("Membership attack", results["attacks"], wanted))
    if results.get("relearning"):
        tables.append(_comparison_rows("Relearning", results["relearning"], {"steps": "as retrained"}))
    return tables


def _row(split, models, metric, task):
    return [
        split,
        task.wanted(split, metric),
        *(_cell(model.get(split, {}), metric, task) for model in models.values()),
    ]


def _cell(values, metric, task):
    value, low, high = (values.get(key) for key in (metric, f"{metric}_low", f"{metric}_high"))
    if not isinstance(value, int | float):  # a user's metric can be a list, too
        return "-"
    text = task.text(metric, value)
    if metric == "loss" or low is None or high is None:
        return text
    return f"{text} [{task.text(metric, low)}, {task.text(metric, high)}]"


def align(rows, markdown):
    """Rows of cells as text: names to the left, numbers to the right, a rule under the first row."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [[*map(str.ljust, row[:2], widths), *map(str.rjust, row[2:], widths[2:])] for row in rows]
    rule = ["-" * width for width in widths]
    if not markdown:
        return "\n".join("  ".join(line).rstrip() for line in [lines[0], rule, *lines[1:]])
    rule[2:] = [dashes[:-1] + ":" for dashes in rule[2:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])


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
    """PNG of `check_<split>_<metric>` over the steps, one line per split, and the other models as levels.

    Args:
        history: rows such as those of `trainer.state.log_history`; those without a step and a check are passed over.
        metric: the first of the task's, if not given.
        original, retrained: {split: {metric: value}}, drawn as dotted and dashed levels in the split's colour.

    Raises:
        ValueError: no row of the history holds a check.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # drawn without pyplot: no window, no global state
    from matplotlib.figure import Figure

    metric = metric or next(iter(task.metrics))
    curves = {split: _curve(history, f"check_{split}_{metric}") for split in splits}
    curves = {split: curve for split, curve in curves.items() if curve}
    if not curves:
        raise ValueError(
            f"No row of the history has a step and check_<split>_{metric}: set check_steps so that checks run."
        )
    figure = Figure(figsize=(8.5, 4.8), layout="constrained")
    axes = figure.add_subplot()
    ends = [_draw(axes, split, curve, metric, task, original, retrained) for split, curve in curves.items()]
    top = axes.get_ylim()[1]
    bottom = min(0, axes.get_ylim()[0]) if any(value < 0 for curve in curves.values() for _, value in curve) else 0
    axes.set_ylim(bottom, top)
    _label_ends(axes, ends, top - bottom)
    axes.set_title(title, loc="left", fontweight="bold", pad=26)
    axes.text(0, 1.03, _legend(task, original, retrained), transform=axes.transAxes, color="0.35", fontsize=9)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(task.metrics.get(metric, metric))
    axes.grid(axis="y", color="0.92")
    axes.spines[["top", "right"]].set_visible(False)
    FigureCanvasAgg(figure).print_figure(path, dpi=150)
    return Path(path)


def checks_by_step(history: list[dict] | None) -> dict[int, dict]:
    """{step: all that was checked at it}; in a history each split's metrics are a row of their own."""
    checks: dict[int, dict] = {}
    for row in history or []:
        checks.setdefault(row["step"], {}).update({name: x for name, x in row.items() if name.startswith("check_")})
    return checks


def _curve(history, key):
    return [(row["step"], row[key]) for row in history if "step" in row and finite(row.get(key))]


def _draw(axes, split, curve, metric, task, original, retrained):
    """One split's curve and levels; returns (last value, label, colour) for the label at its end."""
    colour, (meaning, _) = COLOURS.get(split, "0.3"), task.splits.get(split, (split, ""))
    steps, values = zip(*curve)
    marker = {"marker": MARKERS.get(split, "."), "markersize": 4.5, "markeredgecolor": "white", "markeredgewidth": 0.6}
    axes.plot(steps, values, color=colour, linewidth=2, zorder=3, clip_on=False, **marker)
    if split == "retain":  # trained on here and by both other models: three lines on top of each other
        original = retrained = None
    for levels, style in ((original, ":"), (retrained, (0, (6, 3)))):
        level = ((levels or {}).get(split) or {}).get(metric)
        if level is not None:
            axes.axhline(level, color=colour, linestyle=style, linewidth=1.3, alpha=0.75)
    wanted = task.wanted(split, metric)
    wish = {"": "", "stay": ": should stay"}.get(wanted, f": {wanted} is wanted")
    percent = task.percent and metric != "loss"
    end = f"{values[-1]:.0f} %" if percent else f"{values[-1]:.2f}" if metric == "loss" else as_given(values[-1])
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
    figure = Figure(figsize=(1.2 * columns, sum(1.5 * count + 0.4 for count in rows) + 0.4), layout="constrained")
    parts = figure.subfigures(len(groups), 1, squeeze=False, height_ratios=[1.5 * count + 0.4 for count in rows]).flat
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


def write_results(path, results: dict) -> None:
    """Writes results.json whole or not at all, as strict JSON: what is no finite number becomes null."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_plain(results), indent=2, allow_nan=False, ensure_ascii=False)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text + "\n", encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_results(folder) -> dict:
    """results.json of a run's output folder. Raises ValueError where there is none, or none that can be read."""
    path = Path(folder) / "results.json"
    if not path.is_file():
        raise ValueError(f"there is no {path}: give the output_dir of a finished run")
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(results, dict) or "config" not in results or "data" not in results:
        raise ValueError(f"{path} is no run's: it has no config or data. Give the output_dir of a finished run")
    return results


def _plain(value):
    """`value` in JSON's types: NumPy numbers and arrays, tensors and paths converted, NaN and infinities as None."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.generic | np.ndarray | torch.Tensor):
        return _plain(value.tolist())
    raise TypeError(f"{value!r} ({type(value).__name__}) has no place in results.json: convert it first.")


def environment() -> dict:
    """Versions, hardware, CPU threads, UTC date, and the git commit where the package runs from a checkout."""
    return {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES if find_spec(MODULES.get(name, name))},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else _processor(),
        "cpu_threads": torch.get_num_threads(),
        "platform": f"{platform.system()} {platform.machine()}",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": _commit(),
    }


def emissions(args) -> float | None:
    """Grams of CO2 equivalents of the last training in `args.output_dir`, where codecarbon (`args.report_to`) has
    measured them."""
    path = Path(args.output_dir) / "emissions.csv"
    if "codecarbon" not in args.report_to:  # a file that is there is of an earlier run
        return None
    try:
        rows = list(csv.DictReader(path.read_text().splitlines())) if path.is_file() else []
        return 1000 * float(rows[-1]["emissions"]) if rows else None  # the file counts in kg
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning(f"The emissions of the run are not told, since {path} cannot be read: {error!r}")
        return None


def _processor():
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _commit():
    """Commit of the checkout that holds this very file, with + where it has been changed; None outside of one."""
    here = Path(__file__)

    def git(*command):
        return subprocess.run(["git", "-C", here.parent, *command], capture_output=True, text=True, check=True).stdout

    try:
        git("ls-files", "--error-unmatch", here.name)  # an installed copy can lie inside somebody else's checkout
        changed = git("status", "--porcelain", "--untracked-files=no").strip()
        return git("rev-parse", "HEAD").strip() + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
