"""Reads a recipe's options from YAML and command line, and turns its errors into one line."""

import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

from transformers import HfArgumentParser

from ..yaml_files import as_declared, read_yaml
from .checks import check_options

PACKAGE = Path(__file__).resolve().parents[1]
USAGE = (
    "%(prog)s [config.yaml] [--key value ...]    "
    "(the YAML holds the same keys; the command line wins)"
)


def parse(types: Sequence[type], argv: Sequence[str]) -> tuple:
    """Reads `[config.yaml] [--key value ...]` into one instance of each dataclass. The command line
    wins over the YAML.

    Raises:
        ValueError: the file does not exist; no dataclass has the option; a value in the YAML has
            the wrong type; or a value cannot work with any data (see `checks.check_options`).
    """
    argv, parser = list(argv), HfArgumentParser(types, usage=USAGE)
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
    """Calls `main` with the command line. A user's mistake ends the program with one line, any
    other error with a traceback.

    Args:
        script: the recipe's script. A ValueError or OSError counts as a user's mistake where it was
            raised by this package or by a file in the script's folder.
    """
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as error:
        raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename).resolve()
        if not _is_ours(raised_in, Path(script).resolve().parent):
            raise
        sys.exit(f"error: {error}")


def _is_ours(file: Path, recipe: Path) -> bool:
    """Whether a file belongs to this package or to the recipe. A virtual environment in the
    recipe's folder does not belong to the recipe."""
    if file.is_relative_to(PACKAGE):
        return True
    return file.is_relative_to(recipe) and "site-packages" not in file.relative_to(recipe).parts
