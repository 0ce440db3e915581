"""Methods that descend a weighted sum of the retain and the forget loss."""

from torch import Tensor

from .base import Method, Step


class WeightedSum(Method):
    """Descends retain_weight * L_r + forget_weight * L_f (a negative weight ascends)."""

    shards = True

    def __init__(self, forget_weight: float, retain_weight: float):
        self.forget_weight, self.retain_weight = forget_weight, retain_weight
        self.uses_forget, self.uses_retain = forget_weight != 0, retain_weight != 0

    def forget(self, step: Step) -> Tensor:
        loss = step.forget_loss()
        step.backward(self.forget_weight * loss)
        return loss.detach()

    def retain(self, step: Step) -> dict[str, Tensor]:
        loss = step.retain_loss()
        step.backward(self.retain_weight * loss)
        return {"retain_loss": loss.detach()}


def gradient_ascent(config) -> WeightedSum:
    """NegGrad: ascends the forget loss (Golatkar et al., arXiv 1911.04933)."""
    return WeightedSum(forget_weight=-1.0, retain_weight=0.0)


def gradient_difference(config) -> WeightedSum:
    """NegGrad+ / GradDiff: alpha L_r - (1 - alpha) L_f (Kurmanji et al., arXiv 2302.09880; Liu et al., arXiv
    2203.12817).
    """
    return WeightedSum(forget_weight=config.alpha - 1, retain_weight=config.alpha)


def finetune(config) -> WeightedSum:
    """Continues training on the retain set alone."""
    return WeightedSum(forget_weight=0.0, retain_weight=1.0)
