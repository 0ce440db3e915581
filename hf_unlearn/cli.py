"""The command line `hf-unlearn`: `env` for issue reports, `card` for a model card from results.json, `compare` for methods."""

import argparse
import json
import sys
from pathlib import Path

from .compare import Comparison, compare
from .model_card import build_card
from .ops import active_kernels
from .report import environment, results_table


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0, or 1 after one line about a user's mistake."""
    parser = argparse.ArgumentParser(prog="hf-unlearn", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("env", help="print versions, devices and kernels: paste this into an issue report")
    card = commands.add_parser("card", help="print the table of a run and write its card")
    card.add_argument("folder", type=Path, help="output_dir of a run: holds results.json")
    card.add_argument("--name_forgotten", action="store_true", help="name the forgotten speakers in the card")
    comparison = commands.add_parser("compare", help="tune and compare methods; goes on where it was interrupted")
    comparison.add_argument("file", type=Path, help="what to compare: see hf_unlearn/compare.py")
    arguments = parser.parse_args(argv)
    if arguments.command == "env":
        print(json.dumps({**environment(), "kernels": active_kernels()}, indent=2))
        return 0
    if arguments.command == "compare":
        return run_comparison(arguments.file)
    return write_card(arguments.folder, arguments.name_forgotten)


def run_comparison(file: Path) -> int:
    try:
        comparison = Comparison.read(file)
        print(compare(comparison))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"\nruns.csv, table.md and frontier.png are in {comparison.output_dir}")
    return 0


def write_card(folder: Path, name_forgotten: bool) -> int:
    path = folder / "results.json"
    if not path.is_file():
        print(f"error: there is no {path}: give the output_dir of a finished run", file=sys.stderr)
        return 1
    results = json.loads(path.read_text())
    plot = "forgetting.png" if (folder / "forgetting.png").exists() else None
    build_card(results, model_name=folder.name, plot=plot, name_forgotten=name_forgotten).save(folder / "README.md")
    print(results_table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
