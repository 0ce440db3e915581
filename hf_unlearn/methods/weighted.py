"""Methods that descend a weighted sum of an objective on the retain samples and one on the forget
samples."""

import torch
from torch import Tensor

from .base import Method, Step


class WeightedSum(Method):
    """Descends retain_weight L_r + forget_weight L_f, where L_r and L_f are the mean losses of the
    retain and the forget samples. A negative weight ascends.

    Subclasses replace the losses by other objectives.

    Args:
        forget_weight: weight of L_f. With 0, no forget samples are read.
        retain_weight: weight of L_r. With 0, no retain samples are read.
    """

    shards = True

    def __init__(self, forget_weight: float, retain_weight: float):
        self.forget_weight, self.retain_weight = forget_weight, retain_weight
        self.uses_forget, self.uses_retain = forget_weight != 0, retain_weight != 0
        own_objective = type(self).forget_objective is not WeightedSum.forget_objective
        self.ascends_forget_loss = forget_weight < 0 and not own_objective

    def forget_objective(self, step: Step) -> Tensor:
        """A mean over the micro-batch's samples, times `step.forget_weight`: a scalar."""
        return step.forget_loss()

    def retain_objective(self, step: Step) -> Tensor:
        """A mean over the retain samples, times `step.retain_weight`: a scalar."""
        return step.retain_loss()

    def forget(self, step: Step) -> Tensor:
        objective = self.forget_objective(step)
        step.backward(self.forget_weight * objective)
        return objective.detach()

    def retain(self, step: Step) -> dict[str, Tensor]:
        objective = self.retain_objective(step)
        step.backward(self.retain_weight * objective)
        return {"retain_loss": objective.detach()}


def gradient_ascent() -> WeightedSum:
    """NegGrad (Golatkar et al., arXiv 1911.04933): descends -L_f, so ascends the forget loss."""
    return WeightedSum(forget_weight=-1.0, retain_weight=0.0)


def gradient_difference(alpha: float = 0.5) -> WeightedSum:
    """NegGrad+ (Kurmanji et al., arXiv 2302.09880), also called GradDiff (Liu et al., arXiv
    2203.12817): descends alpha L_r - (1 - alpha) L_f.

    Args:
        alpha: weight of the retain loss.
    """
    return WeightedSum(forget_weight=alpha - 1, retain_weight=alpha)


def finetune() -> WeightedSum:
    """Fine-tuning on the retain set alone (the baseline of Golatkar et al., arXiv 1911.04933):
    descends L_r."""
    return WeightedSum(forget_weight=0.0, retain_weight=1.0)


class L1Sparse(WeightedSum):
    """l1-sparse fine-tuning on the retain set (Jia et al., arXiv 2304.04934): descends

        L_r + gamma_t sum |theta|,   gamma_t = gamma (1 - t / T)

    after t of T optimizer steps. In the paper t counts epochs.

    Args:
        gamma: weight of the penalty at the start.
    """

    edits_gradient = True

    # Not tested on shards.
    shards = False

    def __init__(self, gamma: float = 1e-4):
        super().__init__(forget_weight=0.0, retain_weight=1.0)
        self.gamma = gamma

    def finish(self, step: Step) -> None:
        factor = self.gamma * (1 - step.progress) * step.gradient_scale
        for p in step.parameters:
            if p.grad is not None:
                p.grad.add_(torch.sign(p.detach()), alpha=factor)
