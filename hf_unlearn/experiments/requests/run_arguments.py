"""The trainer's arguments of a run, completed by what its recipe knows."""

import copy

from ...config import UnlearnConfig
from ..recipe import Recipe
from .hidden_names import names_to_hide


def completed_arguments(recipe: Recipe) -> UnlearnConfig:
    """A copy of the recipe's arguments that hides all names that must not be published. With
    `keep_forgotten: updates`, the run writes its own update, for the requests after it.
    """
    args = copy.copy(recipe.args)
    args.hide_names = names_to_hide(recipe)
    if recipe.options.keep_forgotten == "updates":
        args.save_update_sketch = True
    return args
