"""Reads a recipe's options from YAML and command line, and turns its errors into one line."""

import difflib
import sys
import typing
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

from transformers import HfArgumentParser

from ..files.yaml_files import as_declared, read_yaml
from .checks.model_checks import check_options
from .mistakes import TRACEBACK, is_mistake

USAGE = (
    f"%(prog)s [config.yaml] [--key value ...] [{TRACEBACK}]    "
    '(the YAML holds the same keys; the command line wins: --key "" unsets an option)'
)


def parse(types: Sequence[type], argv: Sequence[str]) -> tuple:
    """Reads `[config.yaml] [--key value ...]` into one instance of each dataclass. The command line
    wins over the YAML. There, `--key ""` gives an optional option (one that may be None) no value,
    whatever the YAML says.

    Raises:
        ValueError: the file does not exist; no dataclass has the option; a value in the YAML has
            the wrong type; or a value cannot work with any data (see
            `checks.model_checks.check_options`).
    """
    argv, parser = list(argv), HfArgumentParser(types, usage=USAGE, allow_abbrev=False)
    if argv and not argv[0].startswith("-"):
        parser.set_defaults(**_read_options(argv.pop(0), types))
    argv, unset = _without_unset(argv, types)
    parser.set_defaults(**dict.fromkeys(unset))
    *arguments, unknown = parser.parse_args_into_dataclasses(argv, return_remaining_strings=True)
    if unknown:
        raise ValueError(_unknown("on the command line", unknown, types, " "))
    check_options(arguments)
    return tuple(arguments)


def _without_unset(argv: Sequence[str], types: Sequence[type]) -> tuple[list[str], list[str]]:
    """The command line without `--key ""` and `--key=` for options that may be None, and the names
    of these options."""
    optional = {
        name
        for kind in types
        for name, hint in typing.get_type_hints(kind).items()
        if type(None) in typing.get_args(hint)
    }
    rest, kept, unset = list(argv), [], []
    while rest:
        word = rest.pop(0)
        name = word.removeprefix("--").removesuffix("=").replace("-", "_")
        alone = word.endswith("=")
        if name in optional and word.startswith("--") and (alone or rest[:1] == [""]):
            unset.append(name)
            rest = rest if alone else rest[1:]
        else:
            kept.append(word)
    return kept, unset


def _read_options(path: str, types: Sequence[type]) -> dict:
    options = read_yaml(path)
    if unknown := sorted(set(options) - set(_names(types))):
        raise ValueError(_unknown(f"in {path}", unknown, types, ", "))
    return as_declared(options, types, path)


def _names(types: Sequence[type]) -> list[str]:
    return [option.name for kind in types for option in fields(kind) if option.init]


def _unknown(where: str, words: Sequence[str], types: Sequence[type], separator: str) -> str:
    """A message about unknown options, with the known ones that are spelled like them."""
    names = (word.removeprefix("--").partition("=")[0].replace("-", "_") for word in words)
    similar = [
        match for name in names for match in difflib.get_close_matches(name, _names(types), n=2)
    ]
    meant = f"did you mean {' or '.join(dict.fromkeys(similar))}? " if similar else ""
    return f"unknown {where}: {separator.join(words)}; {meant}--help lists all options"


def run_script(main: Callable[[Sequence[str]], object], script: str) -> None:
    """Calls `main` with the command line. A user's mistake ends the program with one line, any
    other error with a traceback (see `mistakes.is_mistake`). With `--traceback`, which `main` does
    not get, every error does.

    Args:
        script: the recipe's script. The files in its folder are the recipe's.
    """
    argv = [word for word in sys.argv[1:] if word != TRACEBACK]
    try:
        main(argv)
    except Exception as error:
        if TRACEBACK in sys.argv or not is_mistake(error, Path(script).resolve().parent):
            raise
        sys.exit(f"error: {error}")
