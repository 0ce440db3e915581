"""hf_unlearn: make Hugging Face models forget chosen training data, and keep everything else."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import UnlearnConfig
    from .methods import METHODS, Method
    from .trainer.trainer import UnlearnTrainer

__version__ = "0.1.0.dev0"

__all__ = ["METHODS", "Method", "UnlearnConfig", "UnlearnTrainer"]

# Loaded when they are first asked for: the command line answers without torch and transformers.
_MODULE_OF = {
    "METHODS": "methods",
    "Method": "methods",
    "UnlearnConfig": "config",
    "UnlearnTrainer": "trainer.trainer",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
