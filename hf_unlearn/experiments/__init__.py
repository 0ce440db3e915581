"""Runs recipes: what recipes of every kind of data share, and what a recipe of your own needs."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .command_line import parse, run_script
    from .models.reference_models import train
    from .options import RecipeArguments, ReferenceArguments
    from .recipe import Recipe
    from .run import unlearn

__all__ = [
    "Recipe",
    "RecipeArguments",
    "ReferenceArguments",
    "parse",
    "run_script",
    "train",
    "unlearn",
]

# Loaded when they are first asked for: the list of recipes needs none of them.
_MODULE_OF = {
    "Recipe": "recipe",
    "RecipeArguments": "options",
    "ReferenceArguments": "options",
    "parse": "command_line",
    "run_script": "command_line",
    "train": "models.reference_models",
    "unlearn": "run",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
