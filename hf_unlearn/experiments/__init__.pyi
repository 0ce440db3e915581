"""The names of `hf_unlearn.experiments`, which loads them when they are first asked for."""

from .command_line import parse as parse
from .command_line import run_script as run_script
from .models.training import train as train
from .options import RecipeArguments as RecipeArguments
from .options import TrainArguments as TrainArguments
from .recipe import Recipe as Recipe
from .running.run import unlearn as unlearn
