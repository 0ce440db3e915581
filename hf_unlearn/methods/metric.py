"""OrthoGrad in the metric of the optimizer: the step, not the gradient, leaves retained losses
unchanged."""

import torch
from torch import Tensor, nn

from .base import Step
from .orthograd import OrthoGrad


class OrthoGradMetric(OrthoGrad):
    """`orthograd` for optimizers of the Adam family, whose step is D^-1 g with D = sqrt(v_hat) +
    eps. To first order, the loss of retain sample n changes by <g_n, D^-1 g>, so

        u_perp = u - A^T c,   c = (A D^-1 A^T)^+ A D^-1 u,   and <g_n, D^-1 u_perp> = 0 for all n

    These are `orthograd`'s coefficients c for rows and u times D^-1/2. `kept` and `residual` are
    measured in that metric. This is an ablation of this project, not part of the paper.

    D is what the optimizer holds from earlier steps (exp_avg_sq with its bias correction, and eps);
    before the first step it is the identity. This neglects what the step's own gradient adds to D
    (a share of 1 - beta2 in the long run, but one half in the second step), momentum, which adds
    earlier gradients, and weight decay.

    Raises:
        ValueError: at the first step, for an optimizer that is neither of the Adam family nor plain
            SGD.
    """

    # Sharded models have not been tested.
    shards = False

    def scale(self, step: Step, parameter: nn.Parameter) -> Tensor | None:
        """D^-1/2 in the parameter's shape; None for the identity."""
        return inverse_root_metric(step.optimizer, parameter)


def inverse_root_metric(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> Tensor | None:
    """D^-1/2 of a parameter, in its shape; None for the identity.

    Raises:
        ValueError: the optimizer is neither of the Adam family nor plain SGD.
    """
    if isinstance(optimizer, torch.optim.SGD):
        return None
    if not isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW)):
        raise ValueError(
            "method='orthograd_metric' knows the metric of Adam, AdamW and SGD, not of "
            f"{type(optimizer).__name__}: set optim='adamw_torch', or use method='orthograd'"
        )
    state = optimizer.state.get(parameter)
    if not state:
        return None
    group = next(
        group for group in optimizer.param_groups if any(p is parameter for p in group["params"])
    )
    square = state["max_exp_avg_sq"] if group["amsgrad"] else state["exp_avg_sq"]
    corrected = square / (1 - group["betas"][1] ** float(state["step"]))
    return (corrected.sqrt() + group["eps"]).rsqrt()
