"""Per-sample gradients of one batch, computed use by use in the backward pass.

The k x d matrix of all per-sample gradients is never in memory.
"""

# The words of this package:
#
#   sample: one of the k samples of a batch.
#   call: one call of a torch function in the forward pass.
#   use: a parameter's part in a call that combines parameters with samples.
#   tracked: computed from trainable parameters alone, said of a tensor.
#   constant: computed from neither trainable parameters nor samples.
#   root: a trainable parameter that tracked tensors are computed from; it is behind these tensors,
#     and behind the calls that take them.
#   leaf: the tensor whose gradient autograd computes: the whole tensor of a sharded parameter.
#   layout: where the samples lie in a tensor; its owners are the samples that entries belong to.
#   trace: the record of one pass, with all its tensors and calls.
#   recorder: writes the trace in the forward pass.
#   tap: an identity after a call's output, which gets the output's gradient in the backward pass.
#   rows: the per-sample gradients of one use, in a form that need not be materialised.
#   line: a row of a weight (its values at one index of the first axis), to tell it from these rows.

from .engine import PerSampleEngine
from .losses import SampleMeanLoss
from .parameter_rows import ParameterRows
from .rules import Unsupported

__all__ = ["ParameterRows", "PerSampleEngine", "SampleMeanLoss", "Unsupported"]
