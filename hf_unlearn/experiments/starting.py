"""Starts a recipe's script, which replaces the process of the command line."""

import os
import shlex
import sys
from pathlib import Path

from ..files.yaml_files import read_yaml
from .catalogue import find_recipe


def start_recipe(configuration: str | None, recipe: Path | None, options: list[str]) -> None:
    """Replaces this process by the recipe's, so that signals and exit code are the recipe's.

    Args:
        configuration: a YAML file, or the name of a recipe.
        recipe: the recipe's script; default: the one that the YAML file names, or `unlearn.py`
            beside it.
        options: the command line of the recipe.

    Raises:
        ValueError: there is no such configuration, recipe or script.
    """
    if configuration is None:
        raise ValueError(
            "the configuration is missing: give a YAML file or a recipe's name first, such as "
            "digits (hf-unlearn recipes lists all)"
        )
    script, config = _script_and_configuration(configuration, options)
    settings = read_yaml(config) if config else {}
    script = recipe or Path(settings.get("recipe") or script)
    if not script.is_file():
        raise ValueError(
            f"there is no recipe {script}: name its script with --recipe, or as `recipe:` in "
            f"{config or 'a YAML file'}"
        )
    flags = shlex.split(settings.get("launch") or "")
    launcher = ["-m", "accelerate.commands.launch", *flags] if flags else []
    arguments = [str(config)] if config else []
    os.execv(sys.executable, [sys.executable, *launcher, str(script), *arguments, *options])


def _script_and_configuration(argument: str, options: list[str]) -> tuple[Path, Path | None]:
    """The script and the YAML file for the first argument, which is a YAML file or the name of a
    recipe.

    Raises:
        ValueError: it is neither.
    """
    path = Path(argument)
    if path.is_file() or path.suffix in (".yaml", ".yml"):
        return path.parent / "unlearn.py", path
    try:
        return find_recipe(argument)
    except ValueError as error:
        if any(Path(option).suffix in (".yaml", ".yml") for option in options):
            raise ValueError(
                "the first argument must be the configuration, as in `config.yaml --key value`, "
                f"but it is {argument}"
            ) from error
        raise
