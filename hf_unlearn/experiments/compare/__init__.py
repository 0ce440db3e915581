"""Compares methods through a recipe: each is tuned with the same number of settings on targets that
are not reported.

    hf-unlearn compare recipes/demo/compare.yaml

A cell is one run of the recipe in a process and a folder of its own, whose `results.json` says that
it is done: what is interrupted goes on where it was; on another machine, from the rows of an
earlier `runs.csv` (`known`). Models that the recipe trains (original, retrained, shadow models) are
kept in `output_dir/models`, unless `options` name another `models_dir`, and serve every cell that
needs the same ones.
"""

import itertools
from pathlib import Path

from .plan import Comparison
from .runs import Cell, known_rows, reached_at, run_cells, write_rows
from .selection import best_setting
from .tables import pairs, plot, table, tables_by_target

__all__ = ["Comparison", "compare", "reached_at"]


def compare(comparison: Comparison) -> str:
    """Runs what has not been run, writes runs.csv, table.md and frontier.png, and returns the
    tables."""
    varied = [
        dict(zip(comparison.vary, values))
        for values in itertools.product(*comparison.vary.values())
    ]
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
    folder.mkdir(parents=True, exist_ok=True)  # where all cells are known, none of them has made it
    write_rows(folder / "runs.csv", rows + reports)
    tables = (table, tables_by_target, pairs)
    text = "\n\n".join(filter(None, (write(reports, comparison) for write in tables)))
    (folder / "table.md").write_text(text + "\n")
    plot(reports, comparison, folder / "frontier.png")
    return text
