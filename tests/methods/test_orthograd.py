"""What OrthoGrad makes of rows that are nearly dependent, against least squares in float64."""

import pytest
import torch
from torch import nn

from hf_unlearn.methods.orthograd import _solve
from hf_unlearn.per_sample import ParameterRows
from hf_unlearn.per_sample.rows import Dense


@pytest.mark.parametrize("distance", [1.0, 1e-1, 1e-2, 1e-3, 1e-4])
def test_nearly_repeated_rows_are_measured_well_enough(distance):
    A, u = torch.randn(8, 20_000), torch.randn(20_000)
    A[4:] = A[:4] + distance * torch.randn(4, 20_000)
    u += A.sum(0) + (A[4:] - A[:4]).sum(0) / distance  # there is something to remove in every direction
    parameter = nn.Parameter(torch.zeros(200, 100))
    rows = ParameterRows(parameter, [Dense(A.view(8, 200, 100))])
    solution = _solve(lambda exact: rows.products(u.view(200, 100), exact), u.double().square().sum())
    A, u = A.double(), u.double()
    expected = u - A.T @ torch.linalg.lstsq(A.T, u[:, None]).solution[:, 0]
    assert (u - A.T @ solution.coefficients - expected).norm() <= 1e-5 * u.norm()
    assert solution.residual <= 3e-7 / distance  # what float32 rounding may leave of coefficients near 1 / distance
    assert solution.rank == 8
