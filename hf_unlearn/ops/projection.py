"""Rank-revealing projection onto the orthogonal complement of a few rows, from K and b alone.

With A the (k, d) matrix of retain gradients and u the forget gradient, OrthoGrad (Shamsian et al.,
arXiv 2503.02312) keeps

    u_perp = u - A^T c,   c = (A A^T)^+ A u = K^+ b,   K = A A^T (k, k),   b = A u (k,)

so the projection needs only K, b and one weighted sum of the rows of A.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .doubles import move_to, to_float64

# Singular values of the row-normalised A below sqrt(k * RANK_TOLERANCE) count as zero. A direction
# that is dropped leaves a cosine of at most that size (1e-6 * sqrt(k)). Rounding of float32
# gradients is smaller (1e-7).
RANK_TOLERANCE = 1e-12
# A squared pivot that counts as zero: what is left out is smaller than what the rank ignores.
NO_PIVOT = 0.1 * RANK_TOLERANCE
# From this number of rows on, an eigendecomposition costs more than finding that the rank is small.
MANY_ROWS = 64
# Above this squared pivot, the Cholesky factor of the normalised K is accurate enough.
WELL_CONDITIONED = 1e-6
# Above this squared pivot, inner products with float32 rounding (1e-7 |g_n| |g_m|) are accurate
# enough: the error of u_perp, relative to |u|, is that rounding divided by the pivot.
FLOAT32_IS_ENOUGH = 1e-2
FLOAT32_ROUNDING = torch.finfo(torch.float32).eps


class Solution(NamedTuple):
    """The coefficients of one projection and what is reported about it.

    All tensors are float64. They have a leading axis of problems where `solve` was given one.

    coefficients: c (k,), so that u_perp = u - sum_n c_n g_n.
    rank: numerical rank of A, a 0-d tensor.
    residual: the largest |<u_perp, g_n>| / (|u| |g_n|) over the rows, plus the expected effect of
        rounding in the weighted sum of the rows (see `solve`); a 0-d tensor.
    kept: |u_perp|^2, a 0-d tensor.
    pivot: the smallest squared pivot in the Cholesky factorisation of the normalised K: 1 for
        orthogonal rows, 0 where the factorisation fails; a 0-d tensor.
    """

    coefficients: Tensor
    rank: Tensor
    residual: Tensor
    kept: Tensor
    pivot: Tensor


def solve(K: Tensor, b: Tensor, square: Tensor, rounding: float = FLOAT32_ROUNDING) -> Solution:
    """c = K^+ b, by a pseudo-inverse that does not depend on the scale or the order of the rows.

    The rows are scaled to unit length first. The projection does not depend on row scale, but the
    conditioning does. Zero rows stay zero and drop out. Well-conditioned systems are solved with a
    Cholesky factor; all others with an eigendecomposition whose small eigenvalues are cut off at
    `RANK_TOLERANCE`. Non-finite input gives non-finite coefficients and never raises, so that a
    gradient scaler sees the overflow.

    Args:
        K: inner products of the rows (k, k), float64; or (problems, k, k).
        b: inner products of the rows with u (k,), float64; or (problems, k).
        square: |u|^2, 0-d float64; or (problems,).
        rounding: relative error of each c_n g_n in the weighted sum, for the residual. Nearly
            dependent rows have c_n g_n much longer than u, and their errors add up to about
            rounding * (sum_n |c_n g_n|^2)^(1/2) if they point in random directions. On random rows
            at any distance from dependence, this estimate was 3 to 15 times the measured error.
    """
    if K.ndim == 3:
        solutions = [solve(*system, rounding) for system in zip(K, b, square)]
        return Solution(*map(torch.stack, zip(*solutions)))
    if not bool(torch.isfinite(K).all() & torch.isfinite(b).all()):
        nan = torch.full_like(square, torch.nan)
        return Solution(torch.full_like(b, torch.nan), torch.zeros_like(square), nan, nan, nan)
    length = K.diagonal().clamp_min(0).sqrt()
    inverse_length = torch.where(length > 0, 1 / length, 0)
    cosines = inverse_length[:, None] * K * inverse_length[None, :]  # (k, k)
    y, rank, pivot = _solve_normalised(cosines, inverse_length * b)
    c = inverse_length * y
    left = ((b - K @ c).abs() * inverse_length).max() + rounding * y.norm()
    residual = torch.where(square > 0, left / square.sqrt(), 0)
    return Solution(c, rank, residual, (square - b @ c).clamp_min(0), pivot)


def _solve_normalised(cosines: Tensor, rhs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Minimum-norm y of cosines @ y = rhs, the rank and the smallest pivot.

    Args:
        cosines: (k, k), positive semi-definite with unit diagonal (zero for zero rows).
        rhs: (k,).
    """
    factor, info = torch.linalg.cholesky_ex(cosines)
    pivot = torch.where(info == 0, factor.diagonal().square().min(), 0)
    if pivot > WELL_CONDITIONED:
        y = torch.cholesky_solve(rhs[:, None], factor)[:, 0]
        return y, torch.full_like(pivot, len(rhs)), pivot
    values, vectors = _spectrum(cosines)
    keep = values > RANK_TOLERANCE * len(rhs)
    y = vectors @ torch.where(keep, (vectors.T @ rhs) / values, 0)
    return y, keep.sum().to(rhs.dtype), pivot


def _spectrum(cosines: Tensor) -> tuple[Tensor, Tensor]:
    """The eigenvalues (r,) and eigenvectors (k, r) of a positive semi-definite matrix with unit
    diagonal; if its rank is small, of the eigenvalues that are not zero.

    Many rows often have a small rank: there are no more independent ones than values in a bias.
    """
    L = _low_rank_factor(cosines, len(cosines) // 4) if len(cosines) >= MANY_ROWS else None
    if L is None:
        return torch.linalg.eigh(cosines)
    Q, R = torch.linalg.qr(L)
    values, vectors = torch.linalg.eigh(R @ R.T)
    return values, Q @ vectors


def _low_rank_factor(cosines: Tensor, largest: int) -> Tensor | None:
    """L (k, r) with cosines = L L^T, by Cholesky factorisation with pivoting; None if r would
    exceed `largest`."""
    L, left = cosines.new_zeros(len(cosines), largest), cosines.diagonal().clone()
    for r in range(largest):
        pivot, at = left.max(0)
        if pivot <= NO_PIVOT:
            return L[:, :r]
        L[:, r] = (cosines[:, at] - L[:, :r] @ L[at, :r]) / pivot.sqrt()
        left -= L[:, r].square()
        left[at] = 0
    return None


def orthogonal_component(u: Tensor, rows: Tensor) -> Tensor:
    """u_perp = u - A^T (A A^T)^+ A u (arXiv 2503.02312) for a dense A.

    Inner products are summed in float64. A second pass removes what rounding in the first one left.

    Args:
        u: (d,), any floating dtype.
        rows: A (k, d); rows may be dependent, repeated or zero.

    Returns:
        (d,) in u's dtype, with max_n |<u_perp, g_n>| <= 1e-5 |u| |g_n|.
    """
    A, u_perp = to_float64(rows), to_float64(u)
    K = A @ A.T
    for _ in range(2):
        u_perp = u_perp - A.T @ solve(K, A @ u_perp, u_perp @ u_perp).coefficients
    return move_to(u_perp, u.dtype, u.device)
