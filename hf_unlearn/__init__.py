"""hf_unlearn: make Hugging Face models forget chosen training data, and keep everything else."""

from .config import UnlearnConfig
from .methods import METHODS, Method
from .trainer.trainer import UnlearnTrainer

__version__ = "0.1.0.dev0"

__all__ = ["METHODS", "Method", "UnlearnConfig", "UnlearnTrainer"]
