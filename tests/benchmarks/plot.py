"""Draws `results.png` from `results.csv` and prints the rows behind the tables of
docs/benchmarks.md.

    .venv/bin/python tests/benchmarks/plot.py

For each machine and setting it takes the latest of the runs that compared the most methods. Ratios
are relative to gradient difference in the same run.
"""

import argparse
from collections import defaultdict

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from records import BASELINE, FOLDER, NO_STEPS, read

Row = dict[str, str]
# (machine, model, tuning, precision, checkpointing, seconds, k)
Setting = tuple[str, ...]

SETTING = ("machine", "model", "tuning", "precision", "checkpointing", "seconds", "k")
MEASURES = {"step_s": "Time of a step", "peak_gb": "Peak memory"}
PRECISIONS = {"fp32": "float32", "bf16": "bfloat16"}
# What the figure calls the methods.
LABELS = {
    "gradient_difference": "gradient difference",
    "orthograd parameter": "orthograd, each parameter tensor",
    "orthograd model": "orthograd, whole model",
    "published reference": "published algorithm (vmap, QR)",
    "opacus hooks": "published algorithm (Opacus, QR)",
    "opacus ghost (norms)": "Opacus ghost clipping (norms only)",
    "torchjd gramian": "whole model by TorchJD's Gramian",
}


def latest_runs() -> list[Row]:
    """The rows of each setting's latest run, among its runs with the most methods."""
    # setting -> run -> rows, in the order of time
    runs: dict[Setting, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in read():
        if row["tuning"] not in NO_STEPS:
            runs[setting_of(row)][row["run"]].append(row)
    latest = [max(reversed(of_setting.values()), key=len) for of_setting in runs.values()]
    return [row for rows in latest for row in rows]


def setting_of(row: Row) -> Setting:
    return tuple(row[name] for name in SETTING)


def by_setting(rows: list[Row]) -> dict[Setting, dict[str, Row]]:
    """setting -> method -> row."""
    settings = defaultdict(dict)
    for row in rows:
        settings[setting_of(row)][row["method"]] = row
    return settings


def ratio(row: Row, base: Row, measure: str) -> float | None:
    """A measured value relative to the baseline's; None if either is missing."""
    return float(row[measure]) / float(base[measure]) if row[measure] and base[measure] else None


def print_table(settings: dict[Setting, dict[str, Row]]) -> None:
    columns = (
        "machine",
        "model",
        "k",
        "method",
        "step (s)",
        "relative to gradient difference",
        "peak memory (GB)",
        "relative to gradient difference",
    )
    print(f"| {' | '.join(columns)} |")
    print("|---" * len(columns) + "|")
    for setting, methods in settings.items():
        machine, model, tuning, precision, checkpointing, _, k = setting
        options = [tuning] if tuning != "full" else []
        options += [precision, *["checkpointing"] * (checkpointing == "True")]
        for method, row in methods.items():
            cells = [machine, f"{model}, {', '.join(options)}", k, method]
            if row["failure"]:
                cells += [f"fails: {row['failure']}", "", "", ""]
            else:
                for measure in MEASURES:
                    cells += [row[measure], f"{ratio(row, methods[BASELINE], measure):.2f}"]
            print(f"| {' | '.join(cells)} |")


def draw(settings: dict[Setting, dict[str, Row]]) -> None:
    """Draws ratios over k, for each machine the setting that was measured at the most values of
    k."""
    machines = list(dict.fromkeys(setting[0] for setting in settings))
    figure = Figure(figsize=(10, 4 * len(machines)), layout="constrained")
    axes = figure.subplots(len(machines), len(MEASURES), squeeze=False)
    for panels, machine in zip(axes, machines):
        # setting without k -> k -> method -> row
        groups: dict[Setting, dict[int, dict[str, Row]]] = defaultdict(dict)
        for setting, methods in settings.items():
            if setting[0] == machine:
                groups[setting[:-1]][int(setting[-1])] = methods
        setting, over_k = max(groups.items(), key=lambda group: len(group[1]))
        _, model, _, precision, *_ = setting
        for panel, measure in zip(panels, MEASURES):
            draw_panel(panel, measure, dict(sorted(over_k.items())))
            panel.set_title(f"{model}, {PRECISIONS[precision]}, {machine}", fontsize=10)
    lines = {line.get_label(): line for panel in axes.flat for line in panel.get_lines()}
    figure.legend(handles=list(lines.values()), loc="outside lower center", ncols=3, fontsize=9)
    figure.savefig(FOLDER / "results.png", dpi=110)


def draw_panel(panel: Axes, measure: str, over_k: dict[int, dict[str, Row]]) -> None:
    """Draws one line per method: ratios of a measure over k."""
    points = defaultdict(list)
    for k, methods in over_k.items():
        for method, row in methods.items():
            if value := ratio(row, methods[BASELINE], measure):
                points[method].append((k, value))
    for method, values in points.items():
        panel.plot(*zip(*values), marker="o", label=LABELS[method])
    panel.set(
        xscale="log",
        xlabel="Retain samples per step (and as many forget samples)",
        ylabel=f"{MEASURES[measure]} relative to\ngradient difference",
        ylim=(0, None),
    )
    panel.set_xticks(list(over_k), [str(k) for k in over_k])
    panel.minorticks_off()


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    settings = by_setting(latest_runs())
    print_table(settings)
    draw(settings)


if __name__ == "__main__":
    main()
