"""Methods that change the weights once, without an optimizer: Fisher noise and one Newton step.

Such a run has one step, which logs the losses of the changed model and checks the stopping rules.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from transformers.utils import logging

from .base import Method, Preparation, Step
from .vectors import Vector, add_scaled, dot

logger = logging.get_logger(__name__)

# Constants of the published code: added to F so that 1 / F is finite, and the maximum of 1 / F.
FLOOR, CEILING = 1e-8, 1e3


class OneShot(Method):
    """Base of methods whose `prepare` changes the weights. The step only computes the losses."""

    one_shot = True
    edits_gradient = True

    def forget(self, step: Step) -> Tensor:
        with torch.no_grad():
            return step.forget_loss()

    def retain(self, step: Step) -> dict[str, Tensor]:
        with torch.no_grad():
            return {"retain_loss": step.retain_loss()}


class Fisher(OneShot):
    """Fisher forgetting (Golatkar et al., arXiv 1911.04933), as in the public code of
    Unlearn-Sparse (arXiv 2304.04934): adds Gaussian noise to every weight. Its variance is

        noise * min(1 / F, 1000),   F = mean over the retain samples of the squared gradient

    averaged over the second axis of a matrix, and ten times as large for a vector.

    F is the empirical Fisher information, which uses the samples' own labels. The published code
    takes the expectation over all labels, of which transcripts have too many. Its special treatment
    of the classifier (such as setting the row of a forgotten class to 0) is left out.

    Args:
        noise: alpha of the published code.
    """

    prepares = ("retain",)

    def __init__(self, noise: float = 1e-7):
        self.noise = noise

    def prepare(self, start: Preparation) -> None:
        squares = [torch.zeros_like(p) for p in start.parameters.values()]
        for gradients in start.sample_gradients("retain"):
            torch._foreach_addcmul_(squares, gradients, gradients)
        generator = torch.Generator().manual_seed(start.seed)
        with torch.no_grad():
            for p, square in zip(start.parameters.values(), squares):
                information = start.total(square) / start.size("retain")
                deviation = self.variance(information).sqrt().cpu()
                p.add_((deviation * torch.empty(p.shape).normal_(generator=generator)).to(p))

    def variance(self, information: Tensor) -> Tensor:
        """Variance of the noise, in a shape that broadcasts to that of the parameter.

        Args:
            information: F of each weight, in the parameter's shape.
        """
        variance = self.noise * (1 / (information + FLOOR)).clamp_max(CEILING)
        return variance.mean(1, keepdim=True) if variance.ndim > 1 else 10 * variance


class Influence(OneShot):
    """Influence unlearning by one Newton step (Izzo et al., arXiv 2002.10077; Koh & Liang, arXiv
    1703.04730), with the WoodFisher matrix of Unlearn-Sparse (arXiv 2304.04934) in place of the
    Hessian:

        theta + scale (I + mean_n g_n g_n^T)^-1 (m / (m + n)) (u - r)

    with g_n the gradients of the n retain samples, r their mean, and u the mean gradient of the m
    forget samples.

    The published code inverts the matrix by a recursion that drops terms, with 1000 in place of n.
    Here the system is solved by conjugate gradients, where every iteration takes one backward pass
    per retain sample.

    Args:
        scale: alpha of the published code.
        iterations: maximum number of iterations. A warning is logged if they are not enough.
        tolerance: of the residual of the linear system, relative to its right-hand side.
    """

    prepares = ("forget", "retain")

    def __init__(self, scale: float = 10.0, iterations: int = 20, tolerance: float = 1e-4):
        self.scale, self.iterations, self.tolerance = scale, iterations, tolerance

    def prepare(self, start: Preparation) -> None:
        m, n = start.size("forget"), start.size("retain")
        u, r = start.mean_gradient("forget"), start.mean_gradient("retain")
        rhs = [(x - y) * (m / (m + n)) for x, y in zip(u, r)]

        def fisher_product(x: Vector) -> Vector:
            """(I + mean_n g_n g_n^T) x."""
            total = [torch.zeros_like(t) for t in x]
            for gradients in start.sample_gradients("retain"):
                share = dot(gradients, x)
                for t, g in zip(total, gradients):
                    t.add_(share.to(g.dtype) * g)
            return [t + start.total(s) / n for t, s in zip(x, total)]

        step, residual = conjugate_gradients(fisher_product, rhs, self.iterations, self.tolerance)
        if residual > self.tolerance:
            logger.warning(
                f"influence: after {self.iterations} iterations the Newton step has a relative "
                f"residual of {residual:.1e}, above the tolerance of {self.tolerance:.1e}."
            )
        with torch.no_grad():
            for p, x in zip(start.parameters.values(), step):
                p.add_(x, alpha=self.scale)


def conjugate_gradients(
    product: Callable[[Vector], Vector], rhs: Vector, iterations: int, tolerance: float
) -> tuple[Vector, float]:
    """Solves M x = rhs for a positive definite matrix M.

    Args:
        product: computes M x.
        rhs: the right-hand side.
        iterations: maximum number of iterations.
        tolerance: of the relative residual, at which the iteration ends.

    Returns:
        x, and the relative residual |rhs - M x| / |rhs|.
    """
    x = [torch.zeros_like(t) for t in rhs]
    residual, direction = [t.clone() for t in rhs], [t.clone() for t in rhs]
    square = start = dot(rhs, rhs)
    for _ in range(iterations):
        if square <= tolerance**2 * start:
            break
        image = product(direction)
        length = square / dot(direction, image)
        x = add_scaled(x, direction, length)
        residual = add_scaled(residual, image, -length)
        square, before = dot(residual, residual), square
        direction = add_scaled(residual, direction, square / before)
    return x, float((square / start).sqrt()) if start > 0 else 0.0
