"""Draws `results.png` from `results.csv` and prints README's table: each setting's latest run on
each machine, of those that compared the most methods, as ratios to gradient_difference in the same
run.

    .venv/bin/python tests/benchmarks/plot.py
"""

import csv
from collections import defaultdict

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
from bench import BASELINE, HERE, RESULTS  # noqa: E402

SETTING = ("machine", "model", "tuning", "precision", "checkpointing", "seconds", "k")
MEASURES = {"step_s": "step time", "peak_gb": "peak memory"}


def latest_runs() -> list[dict]:
    """The rows of the last run of each setting on each machine, of those with the most methods."""
    with RESULTS.open(newline="") as file:
        # those of bench_kernels.py
        rows = [row for row in csv.DictReader(file) if row["tuning"] != "kernel"]
    runs = defaultdict(lambda: defaultdict(list))  # setting -> run -> rows, in the order of time
    for row in rows:
        runs[tuple(row[name] for name in SETTING)][row["run"]].append(row)
    return [
        row for of_setting in runs.values() for row in max(reversed(of_setting.values()), key=len)
    ]


def by_setting(rows: list[dict]) -> dict[tuple, dict[str, dict]]:
    """setting -> method -> row."""
    settings = defaultdict(dict)
    for row in rows:
        settings[tuple(row[name] for name in SETTING)][row["method"]] = row
    return settings


def ratio(row: dict, base: dict, measure: str) -> float | None:
    return float(row[measure]) / float(base[measure]) if row[measure] and base[measure] else None


def print_table(settings: dict) -> None:
    print(
        "| machine | model | k | method | step (s) | times gradient difference | peak (GB) | "
        "times |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for setting, methods in settings.items():
        machine, model, tuning, precision, checkpointing, _, k = setting
        more = (
            [tuning] * (tuning != "full")
            + [precision]
            + ["checkpointing"] * (checkpointing == "True")
        )
        for method, row in methods.items():
            cells = [machine, f"{model}, {', '.join(more)}", k, method]
            if row["failure"]:
                cells += [f"fails: {row['failure']}", "", "", ""]
            else:
                for measure in MEASURES:
                    cells += [row[measure], f"{ratio(row, methods[BASELINE], measure):.2f}"]
            print("| " + " | ".join(cells) + " |")


def draw(settings: dict) -> None:
    """Ratios over k, one row of panels per machine, for the model that was measured at most values
    of k."""
    machines = list(dict.fromkeys(setting[0] for setting in settings))
    figure, axes = plt.subplots(len(machines), 2, figsize=(10, 3.6 * len(machines)), squeeze=False)
    for panels, machine in zip(axes, machines):
        groups = defaultdict(dict)
        for setting, methods in settings.items():
            if setting[0] == machine:
                groups[setting[:-1]][int(setting[-1])] = methods
        setting, over_k = max(groups.items(), key=lambda group: len(group[1]))
        for panel, (measure, label) in zip(panels, MEASURES.items()):
            lines = defaultdict(list)
            for k, methods in sorted(over_k.items()):
                for method, row in methods.items():
                    if value := ratio(row, methods[BASELINE], measure):
                        lines[method].append((k, value))
            for method, points in lines.items():
                panel.plot(*zip(*points), marker="o", label=method)
            panel.set(xscale="log", xlabel="k (retain samples, and forget "
                                           "samples)", ylabel=f"{label} / {BASELINE}",
                      title=f"{setting[1]}, {setting[3]}, {machine}", ylim=(0, None))  # fmt: skip
            panel.set_xticks(sorted(over_k), [str(k) for k in sorted(over_k)], minor=False)
            panel.minorticks_off()
        # where no line is: ratios are about 1 or above
        panels[0].legend(fontsize=7, ncols=2, loc="lower right")
    figure.tight_layout()
    figure.savefig(HERE / "results.png", dpi=110)


def main() -> None:
    settings = by_setting(latest_runs())
    print_table(settings)
    draw(settings)


if __name__ == "__main__":
    main()
