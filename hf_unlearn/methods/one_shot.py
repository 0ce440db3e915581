"""Methods that change the weights once, without an optimizer: noise where the retain samples do not
look, and one Newton step.

The run has one step, in which the losses of what has come out are logged and the stopping rules
checked.
"""

import torch
from torch import Tensor
from transformers.utils import logging

from .base import Method, Preparation, Step
from .surgery import dot

logger = logging.get_logger(__name__)

# Of the published code: what keeps 1 / F finite, and what it may grow to.
FLOOR, CEILING = 1e-8, 1e3


class OneShot(Method):
    """`prepare` does it all."""

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
    Unlearn-Sparse (arXiv 2304.04934): every weight gets Gaussian noise of variance alpha / F, at
    most 1000 alpha, with F the mean over the retain samples of the squared gradient; in matrices
    the mean of that variance over the second axis, in vectors ten times of it.

    F is the empirical Fisher information, with the samples' own labels; published: with labels
    drawn from the model, which transcripts have too many of. What the published code adds for a
    whole class (its row of the classifier starts at 0) and for the classifier is left out.

    Args:
        noise: alpha of the published code.
    """

    prepares = ("retain",)

    def __init__(self, noise: float = 1e-7):
        self.noise = noise

    def prepare(self, start: Preparation) -> None:
        information = [torch.zeros_like(p) for p in start.parameters.values()]
        for gradients in start.sample_gradients("retain"):
            torch._foreach_addcmul_(information, gradients, gradients)
        generator = torch.Generator().manual_seed(start.seed)
        with torch.no_grad():
            for p, squares in zip(start.parameters.values(), information):
                noise = torch.empty(p.shape).normal_(generator=generator)
                p.add_(
                    (
                        self.variance(start.total(squares) / start.size("retain")).sqrt().cpu()
                        * noise
                    ).to(p)
                )

    def variance(self, information: Tensor) -> Tensor:
        """Of the noise, in the shape of a parameter or one that broadcasts to it."""
        variance = self.noise * (1 / (information + FLOOR)).clamp_max(CEILING)
        return variance.mean(1, keepdim=True) if variance.ndim > 1 else 10 * variance


class Influence(OneShot):
    """Influence unlearning by one Newton step (Izzo et al., arXiv 2002.10077; Koh & Liang, arXiv
    1703.04730), with the WoodFisher matrix of Unlearn-Sparse (arXiv 2304.04934) in the Hessian's
    place:

        theta + scale (I + mean_n g_n g_n^T)^-1 (m / (m + n)) (mean forget gradient - mean retain
        gradient)

    with g_n the gradients of the n retain samples, and m forget samples. The published code inverts
    by a recursion that drops terms, with 1000 in place of n; here it is solved by conjugate
    gradients, which take one backward pass per retain sample and iteration.

    Args:
        scale: alpha of the published code.
        iterations: at most so many; a warning tells if they were too few.
        tolerance: of the solution, relative to the right-hand side.
    """

    prepares = ("forget", "retain")

    def __init__(self, scale: float = 10.0, iterations: int = 20, tolerance: float = 1e-4):
        self.scale, self.iterations, self.tolerance = scale, iterations, tolerance

    def prepare(self, start: Preparation) -> None:
        m, n = start.size("forget"), start.size("retain")
        forget, retain = start.mean_gradient("forget"), start.mean_gradient("retain")
        rhs = [(f - r) * (m / (m + n)) for f, r in zip(forget, retain)]

        def fisher(x: list[Tensor]) -> list[Tensor]:
            product = [torch.zeros_like(t) for t in x]
            for gradients in start.sample_gradients("retain"):
                share = dot(gradients, x)
                for total, g in zip(product, gradients):
                    total.add_(share.to(g.dtype) * g)
            return [t + start.total(p) / n for t, p in zip(x, product)]

        step, left = conjugate_gradients(fisher, rhs, self.iterations, self.tolerance)
        if left > self.tolerance:
            logger.warning(
                f"influence: after {self.iterations} iterations the Newton step is exact to "
                f"{left:.1e} only."
            )
        with torch.no_grad():
            for p, x in zip(start.parameters.values(), step):
                p.add_(x, alpha=self.scale)


def conjugate_gradients(
    product, rhs: list[Tensor], iterations: int, tolerance: float
) -> tuple[list[Tensor], float]:
    """x of M x = rhs for a positive definite M, given by its products, and |rhs - M x| / |rhs|."""
    x = [torch.zeros_like(t) for t in rhs]
    residual, direction = [t.clone() for t in rhs], [t.clone() for t in rhs]
    square = start = dot(rhs, rhs)
    for _ in range(iterations):
        if square <= tolerance**2 * start:
            break
        image = product(direction)
        length = square / dot(direction, image)
        x = [t + length.to(t.dtype) * d for t, d in zip(x, direction)]
        residual = [t - length.to(t.dtype) * i for t, i in zip(residual, image)]
        square, before = dot(residual, residual), square
        direction = [t + (square / before).to(t.dtype) * d for t, d in zip(residual, direction)]
    return x, float((square / start).sqrt()) if start > 0 else 0.0
