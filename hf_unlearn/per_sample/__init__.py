"""Per-sample gradients of one batch, computed use by use in the backward pass.

The k x d matrix of all per-sample gradients is never in memory.
"""

from .engine import PerSampleEngine
from .losses import SampleMeanLoss
from .parameter_rows import ParameterRows
from .rules import Unsupported

__all__ = ["ParameterRows", "PerSampleEngine", "SampleMeanLoss", "Unsupported"]
