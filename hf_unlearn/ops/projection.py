"""Rank-revealing projection onto the orthogonal complement of a few rows, from their inner products
alone.

With A the (k, d) matrix of retain gradients and u the forget gradient, OrthoGrad (Shamsian et al.,
arXiv 2503.02312) keeps

    u_perp = u - A^T c,   c = (A A^T)^+ A u = K^+ b,   K = A A^T (k, k),   b = A u (k,)

so all that is ever needed of A are K, b and one weighted sum of its rows.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .doubles import doubled, moved

# Singular values of the row-normalised A below sqrt(k * RANK_TOLERANCE) count as zero. What such a
# direction leaves behind is a cosine of at most that size (1e-6 * sqrt(k)), and rounding of float32
# gradients lies below it (1e-7).
RANK_TOLERANCE = 1e-12
# Above this squared pivot the Cholesky factor of the normalised Gram matrix is accurate enough to
# be used as it is.
WELL_CONDITIONED = 1e-6
# Above this one, inner products with float32's rounding (1e-7 |g_n| |g_m|) will do: the error of
# u_perp is that rounding over the pivot, relative to |u|.
FLOAT32_IS_ENOUGH = 1e-2
FLOAT32_ROUNDING = torch.finfo(torch.float32).eps


class Solution(NamedTuple):
    """What one projection needs and reports; with a leading axis of problems where `solve` was
    given one. All float64.

    coefficients: c (k,), so that u_perp = u - sum_n c_n g_n.
    rank: numerical rank of A, a 0-d tensor.
    residual: the largest |<u_perp, g_n>| / (|u| |g_n|) over the rows, with what rounding of each
        row's share in their weighted sum is expected to add (see `solve`); a 0-d tensor.
    kept: |u_perp|^2, a 0-d tensor.
    pivot: the smallest squared pivot of the normalised Gram matrix's Cholesky factor, 1 for
        orthogonal rows and 0 where there is no such factor; a 0-d tensor.
    """

    coefficients: Tensor
    rank: Tensor
    residual: Tensor
    kept: Tensor
    pivot: Tensor


def solve(
    gram: Tensor, dots: Tensor, square: Tensor, rounding: float = FLOAT32_ROUNDING
) -> Solution:
    """c = K^+ b by a pseudo-inverse that does not depend on the scale or the order of the rows.

    Args:
        gram: K (k, k) float64, inner products of the rows; or (problems, k, k).
        dots: b (k,) float64, inner products of the rows with u; or (problems, k).
        square: |u|^2, 0-d float64; or (problems,).
        rounding: relative error of c_n g_n in the weighted sum, for the residual: with c_n g_n much
            longer than u, as nearly dependent rows have it, the sum of their errors, taken to point
            anywhere, is rounding * (sum_n |c_n g_n|^2)^(1/2). On random rows at any distance from
            dependence that was 3 to 15 times what was left.

    The rows are scaled to unit length first (projection does not see row scale, conditioning does;
    zero rows stay zero and drop out). Well-conditioned systems take a Cholesky factor, all others
    an eigendecomposition whose small eigenvalues are cut at `RANK_TOLERANCE`. Non-finite input
    gives non-finite coefficients, never an exception, so that a gradient scaler sees the overflow.
    """
    if gram.ndim == 3:
        return Solution(
            *map(
                torch.stack, zip(*(solve(*system, rounding) for system in zip(gram, dots, square)))
            )
        )
    if not bool(torch.isfinite(gram).all() & torch.isfinite(dots).all()):
        nan = torch.full_like(square, torch.nan)
        return Solution(torch.full_like(dots, torch.nan), torch.zeros_like(square), nan, nan, nan)
    length = gram.diagonal().clamp_min(0).sqrt()
    inverse_length = torch.where(length > 0, 1 / length, 0)
    cosines = inverse_length[:, None] * gram * inverse_length[None, :]
    y, rank, pivot = _solve_normalised(cosines, inverse_length * dots)
    coefficients = inverse_length * y
    left = ((dots - gram @ coefficients).abs() * inverse_length).max() + rounding * y.norm()
    residual = torch.where(square > 0, left / square.sqrt(), 0)
    return Solution(
        coefficients, rank, residual, (square - dots @ coefficients).clamp_min(0), pivot
    )


def _solve_normalised(cosines: Tensor, rhs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Minimum-norm y of cosines @ y = rhs, the rank and the smallest pivot, for a positive
    semi-definite matrix of unit diagonal."""
    factor, info = torch.linalg.cholesky_ex(cosines)
    pivot = torch.where(info == 0, factor.diagonal().square().min(), 0)
    if pivot > WELL_CONDITIONED:
        y = torch.cholesky_solve(rhs[:, None], factor)[:, 0]
        return y, torch.full_like(pivot, len(rhs)), pivot
    values, vectors = torch.linalg.eigh(cosines)
    keep = values > RANK_TOLERANCE * len(rhs)
    y = vectors @ torch.where(keep, (vectors.T @ rhs) / values, 0)
    return y, keep.sum().to(rhs.dtype), pivot


def orthogonal_component(u: Tensor, rows: Tensor) -> Tensor:
    """u_perp = u - A^T (A A^T)^+ A u (arXiv 2503.02312, eq. of the projection) for a dense A.

    Args:
        u: (d,), any floating dtype.
        rows: A (k, d), dependent, repeated and zero rows included.

    Returns:
        (d,) in u's dtype, with max_n |<u_perp, g_n>| <= 1e-5 |u| |g_n|.

    Inner products are accumulated in float64; a second pass removes what rounding of the first has
    left.
    """
    rows64 = doubled(rows)
    gram, residue = rows64 @ rows64.T, doubled(u)
    for _ in range(2):
        residue = residue - rows64.T @ solve(gram, rows64 @ residue, residue @ residue).coefficients
    return moved(residue, u.dtype, u.device)
