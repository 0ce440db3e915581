"""OrthoGrad (Shamsian et al., arXiv 2503.02312): forget orthogonally to the gradient of every
retain sample.

    u_perp = u - A^T (A A^T)^+ A u,      g = alpha mean_n(g_n) - (1 - alpha) u_perp

with u the forget gradient and the retain samples' gradients g_n as rows of A. With c = K^+ b this
is

    g = -(1 - alpha) (u - sum_n w_n g_n),      w_n = c_n + alpha / ((1 - alpha) k)

so beside the inner products K = A A^T and b = A u, all it takes is one weighted sum of the g_n, and
that sum takes the place of the weight gradient which the backward pass of the retain batch computes
anyway.

(Another OrthoGrad, Prieto et al., arXiv 2501.04697, is an optimizer and has nothing to do with this
one.)
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..ops import (
    FLOAT32_IS_ENOUGH,
    FLOAT32_ROUNDING,
    Solution,
    doubles_are_fast,
    home_of_doubles,
    solve,
)
from ..per_sample import ParameterRows
from ..per_sample.shards import squared_norm
from .base import Method, Step


class OrthoGrad(Method):
    """OrthoGrad (Shamsian et al., arXiv 2503.02312): descends g = alpha mean_n(g_n) - (1 - alpha)
    u_perp with

        u_perp = u - A^T (A A^T)^+ A u

    u the forget gradient (d,), and the retain samples' gradients g_n as rows of A (k, d). So, to
    first order, the loss of no retain sample moves along u_perp. Dependent, repeated and zero rows
    are normal: the pseudo-inverse goes by the rank.

    Logged: `kept` = |u_perp| / |u|, `rank`, `residual`, the largest |<u_perp, g_n>| / (|u| |g_n|)
    that is left, with what the rounding of float32 is expected to add. It is about the network that
    is evaluated, without dropout and the like; with `freeze_randomness=False` about the one that
    was drawn for the retain batch.

    Args:
        alpha: weight of the mean retain gradient, in [0, 1). 0 ascends on u_perp alone.
        granularity: "parameter" projects in each parameter tensor (as the authors' published code
            does), "model" in the space of all trainable parameters together (the paper's equation).

    Raises:
        ValueError: alpha or granularity is none of these.
    """

    edits_gradient = True
    per_sample = True
    projects = True
    shards = True

    def __init__(self, alpha: float = 0.5, granularity: str = "parameter"):
        if not 0 <= alpha < 1:
            raise ValueError(
                f"alpha is {alpha}, but must be in [0, 1): at 1 nothing would be forgotten"
            )
        if granularity not in ("parameter", "model"):
            raise ValueError(f"granularity is {granularity!r}, but must be 'parameter' or 'model'")
        self.alpha, self.granularity = alpha, granularity

    def forget(self, step: Step) -> Tensor:
        loss = step.forget_loss()
        step.backward(loss)  # .grad holds u once the last micro-batch has been here
        return loss.detach()

    def retain(self, step: Step) -> dict[str, Tensor]:
        project = self._per_parameter if self.granularity == "parameter" else self._whole_model
        return project(step)

    def scale(self, step: Step, parameter: nn.Parameter) -> Tensor | None:
        """By which u and the rows are multiplied before they are projected, in the parameter's
        shape; None for 1."""
        return None

    def _per_parameter(self, step: Step) -> dict[str, Tensor]:
        solutions, squares, visited = [], [], set()

        def visit(rows: ParameterRows, all_rows: ParameterRows) -> Tensor:
            u, all_rows = self._scaled(step, rows.parameter, all_rows)
            visited.add(rows.parameter)
            squares.append(_square(u, rows.parameter))
            solution, exact = _solve(lambda exact: all_rows.products(u, exact), squares[-1])
            solutions.append(solution)
            return rows.weighted(self._weights(step, solution.coefficients), exact)

        loss = step.visit_retain_samples(visit)
        free = [
            self._square_of(step, p) for p in step.parameters if p not in visited
        ]  # no retain sample depends on them
        self._finish(step)
        return {"retain_loss": loss, **_report(solutions, sum(squares) + sum(free), sum(free))}

    def _whole_model(self, step: Step) -> dict[str, Tensor]:
        square = sum(self._square_of(step, p) for p in step.parameters)

        def products(exact: bool) -> tuple[Tensor, Tensor]:
            parts = []

            def visit(rows: ParameterRows, all_rows: ParameterRows) -> None:
                u, all_rows = self._scaled(step, rows.parameter, all_rows)
                parts.append(all_rows.products(u, exact, keep=False))

            step.visit_retain_samples(visit, last=False)
            return tuple(map(sum, zip(*parts)))

        solution, exact = _solve(products, square)
        weights = self._weights(step, solution.coefficients)
        loss = step.visit_retain_samples(lambda rows, _: rows.weighted(weights, exact))
        self._finish(step)
        return {"retain_loss": loss, **_report([solution], square, 0)}

    def _scaled(self, step: Step, parameter: nn.Parameter, rows: ParameterRows | None = None):
        """u and the rows as they are measured; None where the parameter has no u, or no rows are
        given."""
        u, scale = parameter.grad, self.scale(step, parameter)
        if scale is None:
            return u, rows
        return (None if u is None else u * scale), (None if rows is None else rows.scaled(scale))

    def _square_of(self, step: Step, parameter: nn.Parameter) -> Tensor:
        return _square(self._scaled(step, parameter)[0], parameter)

    def _weights(self, step: Step, coefficients: Tensor) -> Tensor:
        """-w_n for the samples of this process. Its rows are g_n / samples, and processes are
        averaged afterwards."""
        own = coefficients[step.first_sample : step.first_sample + step.samples]
        share = step.samples / step.all_samples  # of the mean over all retain samples
        return -step.processes * (own + self.alpha / (1 - self.alpha) * share)

    def _finish(self, step: Step) -> None:
        gradients = [p.grad for p in step.parameters if p.grad is not None]
        torch._foreach_mul_(gradients, self.alpha - 1)


def _solve(
    products: Callable[[bool], tuple[Tensor, Tensor]], square: Tensor
) -> tuple[Solution, bool]:
    """In float32 first, where that is faster; rows that are too nearly dependent for it are
    measured again.

    Args:
        products: gives K and b, exact or not (`ParameterRows.products`).

    Returns:
        The solution, and whether the rows' weighted sum must be exact, too. (Where doubles are fast
        it is not: that would have to wait for the pivot, or cost large weights another product.
        `residual` says what it leaves.)
    """
    if doubles_are_fast(square.device):
        return solve(*products(True), square), False
    solution = solve(*products(False), square)
    if solution.pivot < FLOAT32_IS_ENOUGH:
        solution = solve(*products(True), square, rounding=0.0)
        rounded = torch.where(square > 0, FLOAT32_ROUNDING, 0)  # the sum, once
        return solution._replace(residual=solution.residual + rounded), True
    return solution, False


def _square(u: Tensor | None, parameter: Tensor) -> Tensor:
    """|u|^2 in float64."""
    if u is None:
        return torch.zeros((), dtype=torch.float64, device=home_of_doubles(parameter.device))
    return squared_norm(u)


def _report(solutions: list[Solution], square: Tensor, free: Tensor | int) -> dict[str, Tensor]:
    """kept = |u_perp| / |u| over all parameters; the largest residual; the rank (its mean over
    projections)."""
    kept = sum(solution.kept for solution in solutions) + free
    return {
        "kept": torch.where(square > 0, kept / square, 0).sqrt(),
        "rank": torch.stack([solution.rank for solution in solutions]).mean(),
        "residual": torch.stack([solution.residual for solution in solutions]).max(),
    }
