"""Runs the image recipe, and kills the process (SIGKILL) when a step begins:

python tests/recipes/killed_recipe.py <step> [config.yaml] [--key value ...]
"""

import os
import signal
import sys

from hf_unlearn import UnlearnTrainer
from hf_unlearn.experiments.images.recipe import main

whole = UnlearnTrainer.training_step


def until_killed(trainer: UnlearnTrainer, *arguments, **keywords):
    if trainer.state.global_step == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(trainer, *arguments, **keywords)


if __name__ == "__main__":
    UnlearnTrainer.training_step = until_killed
    main(sys.argv[2:])
