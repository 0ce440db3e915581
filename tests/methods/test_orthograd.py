"""What OrthoGrad makes of rows that are nearly dependent, against least squares in float64."""

import pytest
import torch
from torch import nn

from hf_unlearn.methods.orthograd import _solve
from hf_unlearn.per_sample import ParameterRows, inner_products
from hf_unlearn.per_sample.rows import Dense, Product, written_out


@pytest.mark.parametrize("kept", [True, False])
def test_rows_that_are_not_kept_are_summed_as_they_were_measured(monkeypatch, kept):
    """Of a product, made twice, a few lines at a time: u_perp is orthogonal to the very rows,
    rounding included."""
    monkeypatch.setattr(inner_products, "KEEP", {"cpu": 2**20 if kept else 0})
    monkeypatch.setattr(inner_products, "CHUNK", {"cpu": 4000})
    B, X = torch.randn(8, 6, 40), torch.randn(8, 6, 50)
    B[4:], X[4:] = B[:4] + 1e-4 * torch.randn(4, 6, 40), X[:4] + 1e-4 * torch.randn(4, 6, 50)
    uses, u = [Product(B, X)], torch.randn(40, 50)
    A = torch.cat([part.double() for _, part in inner_products._few_lines(uses, 40, 50)], 1)
    A = written_out(uses, 40, 50).flatten(1).double() if kept else A
    u += ((A[4:] - A[:4]).sum(0) * 1e4).view(40, 50).float()
    rows = ParameterRows(nn.Parameter(torch.zeros(40, 50)), uses)
    solution, exact = _solve(lambda exact: rows.products(u, exact), u.double().square().sum())
    left = {exact: u - rows.weighted(solution.coefficients, exact) for exact in (True, False)}
    cosine = {
        exact: float((A @ x.flatten().double()).abs().div(A.norm(dim=1)).max() / u.norm())
        for exact, x in left.items()
    }
    assert exact and cosine[True] <= solution.residual <= 1e-6 < cosine[False]


@pytest.mark.parametrize("distance", [1.0, 1e-1, 1e-2, 1e-3, 1e-4])
def test_nearly_repeated_rows_are_measured_well_enough(distance):
    A, u = torch.randn(8, 20_000), torch.randn(20_000)
    A[4:] = A[:4] + distance * torch.randn(4, 20_000)
    # there is something to remove in every direction
    u += A.sum(0) + (A[4:] - A[:4]).sum(0) / distance
    parameter = nn.Parameter(torch.zeros(200, 100))
    rows = ParameterRows(parameter, [Dense(A.view(8, 200, 100))])
    solution, exact = _solve(
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
