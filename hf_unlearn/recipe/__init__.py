"""The frame that recipes of every kind of data share: arguments, models, one run of unlearning, its report."""

from .arguments import RecipeArguments, ReferenceArguments, parse, run
from .frame import Recipe, unlearn
from .training import train

__all__ = ["Recipe", "RecipeArguments", "ReferenceArguments", "parse", "run", "train", "unlearn"]
