"""Gradient surgery with two gradients: u of the forget samples and r, the mean over the retain
samples.

These are what `orthograd` is not: they protect the *mean* retain loss, of which single samples may
pay for others.
"""

import torch
from torch import Tensor

from ..ops import doubled, has_float64, summed
from .base import Method, Step

Gradients = list[Tensor]


class Surgery(Method):
    """Has u in `.grad` first, then r, and descends what `combined` makes of the two."""

    edits_gradient = True
    projects = True

    def combined(self, u: Gradients, r: Gradients, retain_loss: Tensor) -> Gradients:
        """The gradient to descend, from those of the mean forget and retain losses.

        Args:
            u, r: a tensor for each parameter.
            retain_loss: the mean over all retain samples of the step.
        """
        raise NotImplementedError

    def forget(self, step: Step) -> Tensor:
        loss = step.forget_loss()
        step.backward(loss)
        return loss.detach()

    def retain(self, step: Step) -> dict[str, Tensor]:
        u = taken(step)
        loss = step.retain_loss()
        step.backward(loss)
        everywhere = step.average(loss.detach())
        for p, gradient in zip(step.parameters, self.combined(u, taken(step), everywhere)):
            p.grad = gradient
        return {"retain_loss": loss.detach()}


def taken(step: Step) -> Gradients:
    """Takes the gradients out of `.grad`; zeros where there is none."""
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in step.parameters]
    for p in step.parameters:
        p.grad = None
    return gradients


def dot(a: Gradients, b: Gradients) -> Tensor:
    """<a, b> over all tensors, in float64."""
    if not has_float64(a[0].device):
        return sum(summed(x.float() * y.float()) for x, y in zip(a, b))
    return sum((x.double() * y.double()).sum() for x, y in zip(a, b))


def without(a: Gradients, b: Gradients, share: Tensor) -> Gradients:
    """a - share b."""
    return [x - share.to(x.dtype) * y for x, y in zip(a, b)]


def off(a: Gradients, b: Gradients, only_conflicts: bool = True) -> Gradients:
    """a less its part along b: where they conflict, <a, b> < 0, or always."""
    along, square = dot(a, b), dot(b, b)
    share = torch.where(square > 0, along / square, 0)
    return without(a, b, share.clamp_max(0) if only_conflicts else share)


class PCGrad(Surgery):
    """PCGrad (Yu et al., arXiv 2001.06782, algorithm 1) on the two tasks r and -u: where they
    conflict, each is projected off the other (as it was), then alpha r + (1 - alpha) (-u). Over all
    parameters together.

    Args:
        alpha: weight of the retain task; 0.5 is the published plain sum, at half the length.
    """

    def __init__(self, alpha: float = 0.5):
        self.alpha = alpha

    def combined(self, u, r, retain_loss):
        ascent = [-x for x in u]
        pairs = zip(off(r, ascent), off(ascent, r))
        return [self.alpha * x + (1 - self.alpha) * y for x, y in pairs]


class AGEM(Surgery):
    """A-GEM (Chaudhry et al., arXiv 1812.00420, eq. 11) with the retain batch as its memory: -u,
    and where that conflicts with r, less its part along r. The retain loss itself is not descended.
    Over all parameters together.
    """

    def combined(self, u, r, retain_loss):
        return off([-x for x in u], r)


class OrthoGradMean(Surgery):
    """`orthograd` against the mean retain gradient r in place of each sample's (the ablation of
    arXiv 2503.02312): alpha r - (1 - alpha) (u - <u, r> / |r|^2 r).

    Args:
        alpha, granularity: as in `orthograd`.
    """

    def __init__(self, alpha: float = 0.5, granularity: str = "parameter"):
        self.alpha, self.granularity = alpha, granularity

    def combined(self, u, r, retain_loss):
        if self.granularity == "model":
            left = off(u, r, only_conflicts=False)
        else:
            left = [off([x], [y], only_conflicts=False)[0] for x, y in zip(u, r)]
        return [self.alpha * y - (1 - self.alpha) * x for x, y in zip(left, r)]


class GdrGma(Surgery):
    """GDR-GMA (Lin et al., ACM MM 2024, "Direction-Rectified and Magnitude-Adjusted Gradients"): in
    each parameter, r and -u are projected off each other where they conflict, then (1 - l) r + l
    (-u) with l = 1 / (1 + exp(gamma (L_r - eps))): it forgets only while the retain loss is below
    about eps.

    Not taken over: the published code also rectifies the last tensor by a memory of its forget
    gradients.

    Args:
        gamma: how sharply l falls around eps.
        eps: a retain loss. The published value is for classifiers that fit their training data; a
            model whose retain loss lies above it does not forget, so set it to what yours may be.
    """

    def __init__(self, gamma: float = 100.0, eps: float = 0.02):
        self.gamma, self.eps = gamma, eps

    def combined(self, u, r, retain_loss):
        weight = torch.sigmoid(self.gamma * (self.eps - doubled(retain_loss)))
        result = []
        for x, y in zip(u, r):
            (kept,), (ascent,) = off([y], [-x]), off([-x], [y])
            result.append((1 - weight).to(x.dtype) * kept + weight.to(x.dtype) * ascent)
        return result
