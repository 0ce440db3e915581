"""The names of `hf_unlearn`, which loads them when they are first asked for."""

from .config import UnlearnConfig as UnlearnConfig
from .methods import METHODS as METHODS
from .methods import Method as Method
from .trainer import UnlearnTrainer as UnlearnTrainer

__version__: str
