"""OrthoGrad on nearly dependent rows, against least squares in float64."""

import pytest
import torch
from torch import nn

from hf_unlearn.methods.orthograd import measure_and_solve
from hf_unlearn.per_sample import ParameterRows, inner_products
from hf_unlearn.per_sample.rows import Dense, Product, written_out


@pytest.mark.parametrize("kept", [True, False])
def test_rows_that_are_not_kept_are_summed_as_they_were_measured(monkeypatch, kept):
    """u_perp is orthogonal to the rows as they were measured, rounding included.

    The rows of a product are computed twice, a few lines at a time.
    """
    monkeypatch.setattr(inner_products, "KEPT_VALUES", {"cpu": 2**20 if kept else 0})
    monkeypatch.setattr(inner_products, "BLOCK_VALUES", {"cpu": 4000})
    B, X = torch.randn(8, 6, 40), torch.randn(8, 6, 50)
    B[4:], X[4:] = B[:4] + 1e-4 * torch.randn(4, 6, 40), X[:4] + 1e-4 * torch.randn(4, 6, 50)
    uses, u = [Product(B, X)], torch.randn(40, 50)
    A = torch.cat([part.double() for _, part in inner_products.line_blocks(uses, 40, 50)], 1)
    A = written_out(uses, 40, 50).flatten(1).double() if kept else A
    # The nearly dependent directions matter.
    u += ((A[4:] - A[:4]).sum(0) * 1e4).view(40, 50).float()
    rows = ParameterRows(nn.Parameter(torch.zeros(40, 50)), uses)
    square = u.double().square().sum()
    solution, must_be_exact = measure_and_solve(lambda exact: rows.products(u, exact), square)
    assert must_be_exact
    cosine = {}
    for exact in (True, False):
        u_perp = (u - rows.weighted(solution.coefficients, exact)).flatten().double()
        cosine[exact] = float((A @ u_perp).abs().div(A.norm(dim=1)).max() / u.norm())
    assert cosine[True] <= solution.residual <= 1e-6 < cosine[False]


@pytest.mark.parametrize("distance", [1.0, 1e-1, 1e-2, 1e-3, 1e-4])
def test_nearly_repeated_rows_are_measured_well_enough(distance):
    A, u = torch.randn(8, 20_000), torch.randn(20_000)
    A[4:] = A[:4] + distance * torch.randn(4, 20_000)
    # u has a component along every row and every difference of rows.
    u += A.sum(0) + (A[4:] - A[:4]).sum(0) / distance
    parameter = nn.Parameter(torch.zeros(200, 100))
    rows = ParameterRows(parameter, [Dense(A.view(8, 200, 100))])
    solution, exact = measure_and_solve(
        lambda exact: rows.products(u.view(200, 100), exact), u.double().square().sum()
    )
    A, u = A.double(), u.double()
    expected = u - A.T @ torch.linalg.lstsq(A.T, u[:, None]).solution[:, 0]
    assert (u - A.T @ solution.coefficients - expected).norm() <= 1e-5 * u.norm()
    assert solution.residual <= 1e-6
    assert exact or distance >= 0.1
    u_perp = u - rows.weighted(solution.coefficients, exact).flatten()
    assert ((A @ u_perp).abs() / A.norm(dim=1)).max() <= 1e-6 * u.norm()
    assert solution.rank == 8
