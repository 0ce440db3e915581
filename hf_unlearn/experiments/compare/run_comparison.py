"""Runs the cells of a comparison, and writes its tables and its plot."""

import itertools
from pathlib import Path

from .frontier import plot_frontier
from .plan import Comparison
from .runs import Cell, known_rows, run_cells, write_rows
from .summary import pairs, table_by_method, tables_by_target
from .tuning import best_setting


def compare(comparison: Comparison) -> str:
    """Runs the cells that are not done, writes runs.csv, table.md and frontier.png, and returns the
    tables."""
    rows = known_rows(comparison)
    tuning = run_cells(tuning_cells(comparison), comparison, rows)
    reported = run_cells(reported_cells(tuning, comparison), comparison, rows)
    folder = Path(comparison.output_dir)
    # The folder is missing if every cell was known.
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "runs.csv", tuning + reported)
    tables = (table_by_method, tables_by_target, pairs)
    text = "\n\n".join(filter(None, (write(reported, comparison) for write in tables)))
    (folder / "table.md").write_text(text + "\n")
    plot_frontier(reported, comparison, folder / "frontier.png")
    return text


def tuning_cells(comparison: Comparison) -> list[Cell]:
    """One cell for each combination of varied options, setting of a method, and tuning target."""
    return [
        Cell("tune", method, setting, target, comparison.seeds[0], varied)
        for varied in _combinations(comparison)
        for method, settings in comparison.methods.items()
        for setting in settings
        for target in comparison.tune_on
    ]


def reported_cells(tuning: list[dict], comparison: Comparison) -> list[Cell]:
    """The cells of each method's best setting, for each target to report and each seed.

    Args:
        tuning: the rows of the tuning cells.
    """
    chosen = [
        (method, best_setting(tuning, method, varied, comparison), varied)
        for varied in _combinations(comparison)
        for method in comparison.methods
    ]
    return [
        Cell("report", method, setting, target, seed, varied)
        for method, setting, varied in chosen
        for target in comparison.report_on
        for seed in comparison.seeds
    ]


def _combinations(comparison: Comparison) -> list[dict]:
    """The combinations of the varied options' values."""
    combinations = itertools.product(*comparison.vary.values())
    return [dict(zip(comparison.vary, values)) for values in combinations]
