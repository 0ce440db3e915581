"""Gradient surgery on two gradients: u of the forget samples, r of the mean retain loss.

Unlike `orthograd`, these methods protect the *mean* retain loss. The loss of single retain samples
may still rise.
"""

import torch
from torch import Tensor

from ..ops import to_float64
from .base import Method, Step
from .vectors import Vector, project_off


class Surgery(Method):
    """Base of methods that descend a combination of u and r, which `combine` computes."""

    edits_gradient = True
    ascends_forget_loss = True
    projects = True

    def combine(self, u: Vector, r: Vector, retain_loss: Tensor) -> Vector:
        """The gradient to descend.

        Args:
            u: gradient of the mean forget loss, one tensor per parameter.
            r: gradient of the mean retain loss, one tensor per parameter.
            retain_loss: mean loss over all retain samples of the step, a scalar.
        """
        raise NotImplementedError

    def forget(self, step: Step) -> Tensor:
        loss = step.forget_loss()
        step.backward(loss)
        return loss.detach()

    def retain(self, step: Step) -> dict[str, Tensor]:
        u = pop_gradients(step)
        loss = step.retain_loss()
        step.backward(loss)
        mean_loss = step.average(loss.detach())
        for p, gradient in zip(step.parameters, self.combine(u, pop_gradients(step), mean_loss)):
            p.grad = gradient
        return {"retain_loss": loss.detach()}


def pop_gradients(step: Step) -> Vector:
    """Removes the gradients from `.grad` and returns them; zeros where a parameter has none."""
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in step.parameters]
    for p in step.parameters:
        p.grad = None
    return gradients


class PCGrad(Surgery):
    """PCGrad (Yu et al., arXiv 2001.06782, algorithm 1) with the two tasks r and -u:

        alpha r' + (1 - alpha) (-u)'

    where r' and (-u)' are r and -u, each projected off the original of the other if <r, -u> < 0.
    The projections are over all parameters together.

    Args:
        alpha: weight of the retain task. At 0.5 the step has half the length of the published sum
            r' + (-u)'.
    """

    def __init__(self, alpha: float = 0.5):
        self.alpha = alpha

    def combine(self, u: Vector, r: Vector, retain_loss: Tensor) -> Vector:
        ascent = [-x for x in u]
        pairs = zip(project_off(r, ascent), project_off(ascent, r))
        return [self.alpha * x + (1 - self.alpha) * y for x, y in pairs]


class AGEM(Surgery):
    """A-GEM (Chaudhry et al., arXiv 1812.00420, eq. 11), whose memory is the retain batch: descends
    -u, projected off r if <-u, r> < 0. The retain loss itself is not descended. The projection is
    over all parameters together.
    """

    def combine(self, u: Vector, r: Vector, retain_loss: Tensor) -> Vector:
        return project_off([-x for x in u], r)


class OrthoGradMean(Surgery):
    """The ablation of OrthoGrad (Shamsian et al., arXiv 2503.02312) that projects u off the mean
    retain gradient r instead of every sample's gradient:

        alpha r - (1 - alpha) (u - <u, r> / |r|^2 r)

    Args:
        alpha: weight of the mean retain gradient, as in `orthograd`.
        granularity: "parameter" projects in each parameter tensor, "model" over all trainable
            parameters together, as in `orthograd`.
    """

    def __init__(self, alpha: float = 0.5, granularity: str = "parameter"):
        self.alpha, self.granularity = alpha, granularity

    def combine(self, u: Vector, r: Vector, retain_loss: Tensor) -> Vector:
        if self.granularity == "model":
            u_perp = project_off(u, r, only_conflicts=False)
        else:
            u_perp = [project_off([x], [y], only_conflicts=False)[0] for x, y in zip(u, r)]
        return [self.alpha * y - (1 - self.alpha) * x for x, y in zip(u_perp, r)]


class GdrGma(Surgery):
    """GDR-GMA (Lin et al., "Direction-Rectified and Magnitude-Adjusted Gradients", ACM MM 2024):

        (1 - l) r' + l (-u)',   l = 1 / (1 + exp(gamma (L_r - eps)))

    where r' and (-u)' are r and -u, each projected off the other in every parameter tensor where
    <r, -u> < 0. So the model forgets only while the retain loss L_r is below about eps.

    The published code also rectifies the last tensor by a memory of its forget gradients; this
    implementation does not.

    Args:
        gamma: how sharply l changes around eps.
        eps: the retain loss to tolerate. The published value suits classifiers that fit their
            training data. A model with a higher retain loss forgets nothing, so set eps to the
            highest retain loss that you accept.
    """

    def __init__(self, gamma: float = 100.0, eps: float = 0.02):
        self.gamma, self.eps = gamma, eps

    def combine(self, u: Vector, r: Vector, retain_loss: Tensor) -> Vector:
        weight = torch.sigmoid(self.gamma * (self.eps - to_float64(retain_loss)))
        result = []
        for x, y in zip(u, r):
            (descent,), (ascent,) = project_off([y], [-x]), project_off([-x], [y])
            result.append((1 - weight).to(x.dtype) * descent + weight.to(x.dtype) * ascent)
        return result
