"""How the YAML file and the command line of a recipe become its options, and how its script
ends."""

import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

from transformers import HfArgumentParser

from ..yaml_files import as_declared, read_yaml

PACKAGE = Path(__file__).resolve().parents[1]


def parse(types: Sequence[type], argv: Sequence[str]) -> tuple:
    """Reads `[config.yaml] [--key value ...]` into one instance of each dataclass; the command line
    wins.

    Raises:
        ValueError: there is no such file, an option that no dataclass knows, in the YAML a value of
            another type, or a value that is wrong whatever the data are (`early.check_options`).
    """
    usage = "%(prog)s [config.yaml] [--key value ...]    (the YAML holds the same keys; the command line wins)"
    from .checks import check_options  # which knows the classes of this file

    argv, parser = list(argv), HfArgumentParser(types, usage=usage)
    if argv and not argv[0].startswith("-"):
        parser.set_defaults(**_read_options(argv.pop(0), types))
    *arguments, unknown = parser.parse_args_into_dataclasses(argv, return_remaining_strings=True)
    if unknown:
        raise ValueError(
            f"unknown on the command line: {' '.join(unknown)}; --help lists all options"
        )
    check_options(arguments)
    return tuple(arguments)


def _read_options(path: str, types: Sequence[type]) -> dict:
    options = read_yaml(path)
    known = {option.name for kind in types for option in fields(kind) if option.init}
    unknown = sorted(set(options) - known)
    if unknown:
        raise ValueError(f"unknown in {path}: {', '.join(unknown)}; --help lists all options")
    return as_declared(options, types, path)


def run_script(main: Callable[[Sequence[str]], object], script: str) -> None:
    """Calls `main` with the command line; a user's mistake ends it with one line in place of a
    stack trace.

    Args:
        script: the file that is run, recipes/<name>/<script>.py: errors of the recipes and of this
            package are users'.
    """
    recipes = Path(script).resolve().parents[1]
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as error:
        if not traceback.extract_tb(error.__traceback__)[-1].filename.startswith(
            (str(PACKAGE), str(recipes))
        ):
            raise  # not our message: the trace is needed
        sys.exit(f"error: {error}")
