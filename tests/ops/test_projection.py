"""The mathematical properties of the projection, on rows of every rank and scale."""

import pytest
import torch

from hf_unlearn.ops import orthogonal_component, solve
from tests.ops.cosines import largest_cosine


def rows_of_rank(k: int, d: int, rank: int, scale: float) -> torch.Tensor:
    return (torch.randn(k, rank) @ torch.randn(rank, d)) * scale


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize(
    "k, d, rank",
    [
        (1, 50, 1),
        (4, 200, 4),
        (8, 200, 3),
        (16, 10, 10),
        (30, 500, 29),
        (64, 64, 64),
        (200, 30, 30),
        (100, 500, 20),
    ],
)
def test_is_orthogonal_idempotent_and_a_projection(k, d, rank, scale):
    rows, u = rows_of_rank(k, d, rank, scale), torch.randn(d)
    kept = orthogonal_component(u, rows)
    assert largest_cosine(kept, u, rows) <= 1e-5
    assert torch.allclose(orthogonal_component(kept, rows), kept, atol=1e-5 * u.norm())
    assert abs(float((u - kept) @ kept)) <= 1e-5 * float(u @ u)
    if rank == d:
        assert kept.norm() <= 1e-4 * u.norm()


def test_does_not_depend_on_order_scale_repetition_or_zero_rows():
    rows, u = torch.randn(5, 100), torch.randn(100)
    expected = orthogonal_component(u, rows)
    scales = torch.tensor([1e-6, 1.0, 1e6, -3.0, 1e-2])[:, None]
    for variant in (
        rows.flip(0),
        rows * scales,
        torch.cat([rows, rows, rows[:2]]),
        torch.cat([rows, torch.zeros(3, 100)]),
    ):
        assert torch.allclose(orthogonal_component(u, variant), expected, atol=1e-5)


@pytest.mark.parametrize("distance", [1e-2, 1e-3, 1e-4, 1e-5, 1e-7])
def test_the_projection_is_orthogonal_to_nearly_repeated_rows(distance):
    rows, u = torch.randn(6, 1000), torch.randn(1000)
    rows[3:] = rows[:3] + distance * torch.randn(3, 1000)
    assert largest_cosine(orthogonal_component(u, rows), u, rows) <= 1e-5


def test_all_rows_zero_keeps_everything():
    u = torch.randn(10)
    assert torch.equal(orthogonal_component(u, torch.zeros(4, 10)), u)


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_solution_reports_rank_residual_and_length(rank):
    rows, u = rows_of_rank(6, 100, rank, 1.0).double(), torch.randn(100).double()
    solution = solve(rows @ rows.T, rows @ u, u @ u)
    u_perp = u - rows.T @ solution.coefficients
    assert solution.rank == rank
    assert float(solution.residual) <= 1e-7
    assert torch.isclose(solution.kept, u_perp @ u_perp)


def test_overflow_gives_non_finite_coefficients_and_no_exception():
    K = torch.full((3, 3), torch.inf, dtype=torch.float64)
    solution = solve(K, torch.ones(3, dtype=torch.float64), torch.ones((), dtype=torch.float64))
    assert not torch.isfinite(solution.coefficients).any()
