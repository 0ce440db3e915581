"""Runs recipes: what recipes of every kind of data share, and what a recipe of your own needs."""

from .command_line import parse, run_script
from .options import RecipeArguments, ReferenceArguments
from .recipe import Recipe
from .reference_models import train
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
