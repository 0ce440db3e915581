"""OrthoGrad (Shamsian et al., arXiv 2503.02312): forgets orthogonally to all retain gradients.

    u_perp = u - A^T (A A^T)^+ A u,      g = alpha mean_n(g_n) - (1 - alpha) u_perp

Here u is the forget gradient and the rows of A are the gradients g_n of the k retain samples. With
K = A A^T, b = A u and c = K^+ b this is

    g = -(1 - alpha) (u - sum_n w_n g_n),      w_n = c_n + alpha / ((1 - alpha) k)

So besides K and b, a step needs only one weighted sum of the g_n. That sum replaces the weight
gradient that the backward pass of the retain batch computes anyway.

(Another OrthoGrad, Prieto et al., arXiv 2501.04697, is an optimizer and unrelated to this one.)
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..ops import (
    FLOAT32_IS_ENOUGH,
    FLOAT32_ROUNDING,
    Solution,
    doubles_are_fast,
    float64_device,
    solve,
)
from ..per_sample import ParameterRows
from ..per_sample.shards import squared_norm
from .base import Method, RowRoles, Step


class OrthoGrad(Method):
    """OrthoGrad (Shamsian et al., arXiv 2503.02312): descends along g, with

        g = alpha mean_n(g_n) - (1 - alpha) u_perp,      u_perp = u - A^T (A A^T)^+ A u

    Here u (d,) is the forget gradient, and the rows of A (k, d) are the gradients g_n of the retain
    samples. To first order, moving along u_perp changes the loss of no retain sample. Dependent,
    repeated and zero rows are normal input: the pseudo-inverse is rank-revealing.

    Logged are `kept` = |u_perp| / |u|, `rank`, and `residual`, the largest remaining
    |<u_perp, g_n>| / (|u| |g_n|) plus the expected effect of float32 rounding. The residual
    describes the network that is evaluated, without dropout and other randomness. With
    `freeze_randomness=False` it describes the network that was drawn for the retain batch.

    Constraints give further rows P (m, d): the gradients of earlier requests' samples, their
    updates and, with `forget_objective="silence"`, the gradients of how silent the model is at each
    retain sample. The whole step is orthogonal to these, also the part that descends the retain
    loss, which would otherwise bring back what earlier samples have in common with retained ones:

        g = alpha r_perp - (1 - alpha) u_perp,   r = mean_n(g_n),   r_perp = r - P^T (P P^T)^+ P r

    and u_perp is orthogonal to the rows of A and of P. So to first order the losses with gradients
    in P neither fall nor rise. Only one of the two would be harmful, so this condition is stricter
    than necessary. An update in P says less: the weights do not move along it, in either direction,
    but the losses that it raised may fall along others. Both hold for the gradient g: an optimizer
    that rescales individual weights (Adam) changes the direction of the step.

    Args:
        alpha: weight of the mean retain gradient, in [0, 1). 0 ascends along u_perp alone.
        granularity: "parameter" projects in each parameter tensor (as the authors' published code
            does), "model" in the space of all trainable parameters together (the paper's equation).

    Raises:
        ValueError: alpha is not in [0, 1), or granularity is neither of the two.
    """

    edits_gradient = True
    per_sample = True
    projects = True
    keeps_forgotten = True
    ascends_forget_loss = True
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
        # After the last micro-batch, .grad holds u.
        step.backward(loss)
        return loss.detach()

    def retain(self, step: Step) -> dict[str, Tensor]:
        project = self._per_parameter if self.granularity == "parameter" else self._whole_model
        return project(step)

    def scale(self, step: Step, parameter: nn.Parameter) -> Tensor | None:
        """Factor on u and the rows before they are projected, in the parameter's shape; None: 1."""
        return None

    def _per_parameter(self, step: Step) -> dict[str, Tensor]:
        solutions, squares, visited = [], [], set()

        def visit(rows: ParameterRows, all_rows: ParameterRows) -> Tensor:
            u, all_rows = self._scale(step, rows.parameter, all_rows)
            visited.add(rows.parameter)
            squares.append(_square(u, rows.parameter))
            factors, solution, exact = self._solve(
                step,
                lambda exact: all_rows.products(u, exact),
                squares[-1],
                dependent=all_rows.k > rows.parameter.numel(),
            )
            solutions.append(solution)
            # autograd adds this to .grad: u - sum_n w_n g_n
            return rows.weighted(factors, exact)

        loss = step.visit_retain_samples(visit)
        # No retain sample depends on these parameters, so there u_perp is u.
        unvisited = [self._square_of(step, p) for p in step.parameters if p not in visited]
        self._scale_gradients(step)
        square, free = sum(squares) + sum(unvisited), sum(unvisited)
        return {"retain_loss": loss, **_report(solutions, square, free)}

    def _whole_model(self, step: Step) -> dict[str, Tensor]:
        square = sum(self._square_of(step, p) for p in step.parameters)

        def products(exact: bool) -> tuple[Tensor, Tensor]:
            shares = []

            def visit(rows: ParameterRows, all_rows: ParameterRows) -> None:
                u, all_rows = self._scale(step, rows.parameter, all_rows)
                shares.append(all_rows.products(u, exact, keep=False))

            step.visit_retain_samples(visit, last=False)
            Ks, bs = zip(*shares)
            return sum(Ks), sum(bs)

        factors, solution, exact = self._solve(step, products, square)
        # autograd adds this to .grad: u - sum_n w_n g_n
        loss = step.visit_retain_samples(lambda rows, _: rows.weighted(factors, exact))
        self._scale_gradients(step)
        return {"retain_loss": loss, **_report([solution], square, 0)}

    def _scale(
        self, step: Step, parameter: nn.Parameter, rows: ParameterRows | None = None
    ) -> tuple[Tensor | None, ParameterRows | None]:
        """u and the rows times `scale`; u is None where the parameter has no gradient."""
        u, scale = parameter.grad, self.scale(step, parameter)
        if scale is None:
            return u, rows
        return (None if u is None else u * scale), (None if rows is None else rows.scaled(scale))

    def _square_of(self, step: Step, parameter: nn.Parameter) -> Tensor:
        return _square(self._scale(step, parameter)[0], parameter)

    def _solve(
        self,
        step: Step,
        products: Callable[[bool], tuple[Tensor, Tensor]],
        square: Tensor,
        dependent: bool = False,
    ) -> tuple[Tensor, Solution, bool]:
        """The factors -w_n of the rows that this process adds up, the solution for c, and whether
        the sum must be exact (see `measure_and_solve`)."""
        measured = []

        def measure(exact: bool) -> tuple[Tensor, Tensor]:
            measured.append(products(exact))
            return measured[-1]

        solution, exact = measure_and_solve(measure, square, dependent)
        K, rows = measured[-1][0], step.rows
        if not rows.constraints:
            share = rows.retain_mean[rows.this_process.start]
            return self._factors(step, solution.coefficients, share), solution, exact
        share, left = retain_descent(K, rows)
        solution = solution._replace(residual=torch.maximum(solution.residual, left))
        return self._factors(step, solution.coefficients, share), solution, exact

    def _factors(self, step: Step, c: Tensor, share: Tensor | float) -> Tensor:
        """-w_n for the rows of this process's samples, and for the updates of earlier requests:
        w = c + alpha / (1 - alpha) share.

        The rows of a process are g_n divided by its number of samples, and `.grad` is averaged over
        processes afterwards; the factors make up for both. An update is a row of all processes.

        Args:
            c: (rows,).
            share: the coefficients (rows,) of r_perp (of r, if there are no constraints) in
                the rows; a single number if they are all equal.
        """
        w = c + self.alpha / (1 - self.alpha) * share
        return -torch.cat([step.processes * w[step.rows.this_process], w[step.rows.samples :]])

    def _scale_gradients(self, step: Step) -> None:
        """g = -(1 - alpha) (u - sum_n w_n g_n), in place in `.grad`."""
        gradients = [p.grad for p in step.parameters if p.grad is not None]
        torch._foreach_mul_(gradients, -(1 - self.alpha))


def retain_descent(K: Tensor, rows: RowRoles) -> tuple[Tensor, Tensor]:
    """r_perp = r - P^T (P P^T)^+ P r from the inner products of the rows, where r is the gradient
    of the mean retain loss and P the rows of the constraints.

    Args:
        K: (rows, rows), float64.

    Returns:
        The factors (rows,) with which the rows add up to r_perp, and the largest
        |<r_perp, p>| / (|r| |p|) over the rows of P.
    """
    share, indices = K.new_tensor(rows.retain_mean), torch.tensor(rows.constraints, device=K.device)
    along = K[indices] @ share
    solution = solve(K[indices][:, indices], along, share @ K @ share)
    # The rows of P have no part in r.
    share[indices] = -solution.coefficients
    return share, solution.residual


def measure_and_solve(
    products: Callable[[bool], tuple[Tensor, Tensor]], square: Tensor, dependent: bool = False
) -> tuple[Solution, bool]:
    """Computes K and b and solves for c, in float32 first where that is faster.

    Rows that are too nearly dependent for float32 get a second, exact computation of K and b.

    Args:
        products: gives K and b, exact or not (`ParameterRows.products`).
        square: |u|^2, 0-d float64.
        dependent: the rows are known to be dependent (there are more of them than values in one),
            so float32 is not tried.

    Returns:
        The solution, and whether the weighted sum of the rows must be exact, too. Where float64 is
        fast, the sum never is: it would have to wait for the pivot, and large weights would cost
        another product. `residual` reports the error of that.
    """
    if doubles_are_fast(square.device):
        return solve(*products(True), square), False
    solution = None if dependent else solve(*products(False), square)
    if solution is None or solution.pivot < FLOAT32_IS_ENOUGH:
        solution = solve(*products(True), square, rounding=0.0)
        # Only the sum itself is rounded, once.
        rounded = torch.where(square > 0, FLOAT32_ROUNDING, 0)
        return solution._replace(residual=solution.residual + rounded), True
    return solution, False


def _square(u: Tensor | None, parameter: Tensor) -> Tensor:
    """|u|^2, 0-d float64."""
    if u is None:
        return torch.zeros((), dtype=torch.float64, device=float64_device(parameter.device))
    return squared_norm(u)


def _report(solutions: list[Solution], square: Tensor, free: Tensor | int) -> dict[str, Tensor]:
    """What is logged about a step.

    Args:
        solutions: of each projection.
        square: |u|^2 over all parameters.
        free: the share of |u|^2 in parameters that no retain sample depends on.

    Returns:
        kept = |u_perp| / |u| over all parameters, the mean rank and the largest residual over the
        projections.
    """
    kept = sum(solution.kept for solution in solutions) + free
    return {
        "kept": torch.where(square > 0, kept / square, 0).sqrt(),
        "rank": torch.stack([solution.rank for solution in solutions]).mean(),
        "residual": torch.stack([solution.residual for solution in solutions]).max(),
    }
