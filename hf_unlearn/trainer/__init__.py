"""UnlearnTrainer: its steps, the checks before them, its checkpoints and pushes."""

from .trainer import UnlearnTrainer

__all__ = ["UnlearnTrainer"]
