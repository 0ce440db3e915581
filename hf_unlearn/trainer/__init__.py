"""The trainer and its step."""

from .trainer import UnlearnTrainer

__all__ = ["UnlearnTrainer"]
