"""Per-sample gradients of one batch, met layer by layer in the backward pass and never stored as a
k x d matrix."""

from .engine import ParameterRows, PerSampleEngine
from .losses import SampleMeanLoss
from .rules import Unsupported

__all__ = ["ParameterRows", "PerSampleEngine", "SampleMeanLoss", "Unsupported"]
