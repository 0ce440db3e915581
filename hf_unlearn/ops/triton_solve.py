"""Triton kernel that solves the k x k system of each projection by a pivoted Cholesky
factorisation, without the host.

Same signature and meaning as the plain torch version in `projection.py`, for any number of systems
of one size in one
launch: one program each. Pivoted Cholesky of the Gram matrix is the R factor of a column-pivoted QR
of A^T (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 10.3).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .projection import FLOAT32_ROUNDING, Solution

# Squared length, outside the span of the rows chosen so far, at which the remaining rows (of length
# 1) count as dependent. Each of them leaves behind a cosine of at most its root, 3e-6, whatever the
# number of rows; rounding of the inner products lies at 1e-15.
PIVOT_TOLERANCE = 1e-11
CHUNK = 16  # rows of the matrix or columns of its factor that are read at a time


@triton.jit
def solve_kernel(
    gram,
    dots,
    square,
    factor,
    coefficients,
    report,
    k,
    problems,
    TOLERANCE: tl.constexpr,
    ROUNDING: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """One system. gram (k, k), dots (k,), square () -> coefficients (k,) and report = rank,
    residual, kept, pivot.

    `factor` (k, k) is scratch for the Cholesky factor L of the cosines, transposed: step j writes
    its row j. Vectors are over the rows of A. Barriers stand between what one thread writes to
    memory and what others read of it.
    """
    problem = tl.program_id(0).to(tl.int64)
    gram += problem * k * k
    factor += problem * k * k
    dots += problem * k
    coefficients += problem * k
    n = tl.arange(0, ROWS)
    real = n < k
    b = tl.load(dots + n, mask=real, other=0.0)
    squares = tl.load(gram + n * (k + 1), mask=real, other=0.0)

    wrong = tl.where(tl.abs(b) < float("inf"), 0, 1)
    for start in range(0, k, CHUNK):
        m = start + tl.arange(0, CHUNK)
        values = tl.load(
            gram + m[:, None] * k + n[None, :], mask=(m < k)[:, None] & real[None, :], other=0.0
        )
        wrong += tl.sum(tl.where(tl.abs(values) < float("inf"), 0, 1), axis=0)
    finite = tl.sum(wrong, axis=0) == 0
    squares = tl.where(finite, squares, 0.0)
    nonzero = squares > 0
    inverse_length = tl.where(nonzero, 1.0 / tl.sqrt(tl.where(nonzero, squares, 1.0)), 0.0)

    # L z = right-hand side, while L comes into being.
    rest = tl.where(nonzero, inverse_length * b, 0.0)  # right-hand side minus L z
    outside = tl.where(nonzero, 1.0, tl.where(real, 0.0, -1.0)).to(
        tl.float64
    )  # squared length outside the chosen's span
    step = tl.full((ROWS,), ROWS, dtype=tl.int32)  # at which a row was chosen; ROWS: never
    z = tl.zeros((ROWS,), dtype=tl.float64)
    smallest = tl.max(outside, axis=0)
    for j in range(k):
        chosen = tl.argmax(outside, axis=0)
        here = (n == chosen) & (outside > TOLERANCE)  # nowhere, once all that is left is dependent
        pivot = tl.sum(tl.where(here, outside, 0.0), axis=0)
        inverse_root = tl.where(pivot > 0, 1.0 / tl.sqrt(tl.where(pivot > 0, pivot, 1.0)), 0.0)
        column = tl.load(gram + chosen * k + n, mask=real, other=0.0)
        column *= inverse_length * tl.sum(tl.where(here, inverse_length, 0.0), axis=0)
        for start in range(0, j, CHUNK):
            m = start + tl.arange(0, CHUNK)
            L = tl.load(
                factor + m[:, None] * k + n[None, :],
                mask=(m < j)[:, None] & real[None, :],
                other=0.0,
            )
            at_chosen = tl.load(factor + m * k + chosen, mask=m < j, other=0.0)
            column -= tl.sum(L * at_chosen[:, None], axis=0)
        column = tl.where(nonzero & (step == ROWS), column * inverse_root, 0.0)
        tl.store(factor + j * k + n, column, mask=real)
        z_j = tl.sum(tl.where(here, rest, 0.0), axis=0) * inverse_root
        z = tl.where(here, z_j, z)
        rest -= z_j * column
        smallest = tl.where(pivot > 0, pivot, smallest)
        outside = tl.where(here, 0.0, outside - column * column)
        step = tl.where(here, j, step)
        tl.debug_barrier()
    rank = tl.sum(tl.where(step < ROWS, 1, 0), axis=0)

    y = tl.zeros((ROWS,), dtype=tl.float64)  # L^T y = z
    for i in range(k):
        j = k - 1 - i
        here = step == j
        column = tl.load(factor + j * k + n, mask=real, other=0.0)
        y = tl.where(here, (z - tl.sum(column * y, axis=0)) / tl.where(here, column, 1.0), y)

    c = tl.where(finite, inverse_length * y, float("nan"))
    tl.store(coefficients + n, c, mask=real)
    tl.debug_barrier()
    left = b
    for start in range(0, k, CHUNK):
        m = start + tl.arange(0, CHUNK)
        values = tl.load(
            gram + m[:, None] * k + n[None, :], mask=(m < k)[:, None] & real[None, :], other=0.0
        )
        left -= tl.sum(values * tl.load(coefficients + m, mask=m < k, other=0.0)[:, None], axis=0)
    length = tl.load(square + problem)
    residual = tl.max(tl.abs(left) * inverse_length, axis=0) + ROUNDING * tl.sqrt(
        tl.sum(y * y, axis=0)
    )
    residual = tl.where(
        length > 0, residual / tl.maximum(tl.sqrt(length), 2.2250738585072014e-308), 0.0
    )
    kept = tl.maximum(length - tl.sum(tl.where(real, b * c, 0.0), axis=0), 0.0)
    tl.store(report + problem, rank.to(tl.float64))
    tl.store(report + problems + problem, tl.where(finite, residual, float("nan")))
    tl.store(report + 2 * problems + problem, tl.where(finite, kept, float("nan")))
    full = tl.where(rank == k, smallest, 0.0)
    tl.store(report + 3 * problems + problem, tl.where(finite, full, float("nan")))


def solve(
    gram: Tensor, dots: Tensor, square: Tensor, rounding: float = FLOAT32_ROUNDING
) -> Solution:
    """See `projection.solve`. The coefficients are those of a largest independent subset of the
    rows and 0 for all others, where the plain version's have minimum norm: u_perp is the same.

    Promised, for inner products that are right to float64: the rows of that subset keep a cosine of
    at most 1e-9 with u_perp, all others of at most sqrt(PIVOT_TOLERANCE) = 3e-6; u_perp is off by
    at most 1e-14 k |u| / pivot, with the last pivot taken. A step of iterative refinement was
    tried, and improves neither.
    """
    k, batch = gram.shape[-1], gram.shape[:-2]
    problems = batch.numel()
    gram, dots, square = gram.contiguous(), dots.contiguous(), square.contiguous()
    factor, coefficients = torch.empty_like(gram), torch.empty_like(dots)
    report = torch.empty(4, *batch, dtype=torch.float64, device=gram.device)
    rows = triton.next_power_of_2(k)
    solve_kernel[(problems,)](
        gram, dots, square, factor, coefficients, report, k, problems,
        TOLERANCE=PIVOT_TOLERANCE, ROUNDING=rounding, ROWS=rows, CHUNK=CHUNK,
        num_warps=min(max(1, rows // 32), 8), enable_fp_fusion=True,
    )  # fmt: skip
    return Solution(coefficients, *report)
