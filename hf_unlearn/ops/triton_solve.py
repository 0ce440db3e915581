"""Triton kernel that solves the k x k system of each projection without waiting for the host.

It uses a pivoted Cholesky factorisation of K, whose factor is the R of a column-pivoted QR of A^T
(Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 10.3). Signature and
meaning are those of the plain torch version in `projection.py`. One launch takes any number of
systems of one size, each in a program of its own.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .projection import FLOAT32_ROUNDING, Solution

# The rows are scaled to length 1. The remaining rows count as dependent once the squared length of
# each outside the span of the chosen rows is at most this. Each of them leaves a cosine of at most
# the root, 3e-6, whatever the number of rows. Rounding of the inner products is about 1e-15.
PIVOT_TOLERANCE = 1e-11
# Rows of the matrix, or columns of its factor, that are read at a time.
PANEL = 16


@triton.jit
def solve_kernel(
    K,
    b,
    square,
    factor,
    coefficients,
    report,
    k,
    problems,
    TOLERANCE: tl.constexpr,
    ROUNDING: tl.constexpr,
    ROWS: tl.constexpr,
    PANEL: tl.constexpr,
):
    """One system: K (k, k), b (k,), square () -> coefficients (k,) and a report.

    The report is rank, residual, kept and pivot. `factor` (k, k) is scratch memory for the
    transposed Cholesky factor L of the cosines: step j writes row j. Vectors have an entry for each
    row of A. Barriers separate a thread's writes to memory from the reads of other threads.
    """
    problem = tl.program_id(0).to(tl.int64)
    K += problem * k * k
    factor += problem * k * k
    b += problem * k
    coefficients += problem * k
    n = tl.arange(0, ROWS)
    real = n < k

    # Phase 1: look for values that are not finite, and scale K to cosines.
    b_n = tl.load(b + n, mask=real, other=0.0)
    squares = tl.load(K + n * (k + 1), mask=real, other=0.0)

    wrong = tl.where(tl.abs(b_n) < float("inf"), 0, 1)
    for start in range(0, k, PANEL):
        m = start + tl.arange(0, PANEL)
        values = tl.load(
            K + m[:, None] * k + n[None, :], mask=(m < k)[:, None] & real[None, :], other=0.0
        )
        wrong += tl.sum(tl.where(tl.abs(values) < float("inf"), 0, 1), axis=0)
    finite = tl.sum(wrong, axis=0) == 0
    squares = tl.where(finite, squares, 0.0)
    nonzero = squares > 0
    inverse_length = tl.where(nonzero, 1.0 / tl.sqrt(tl.where(nonzero, squares, 1.0)), 0.0)

    # Phase 2: pivoted Cholesky, one row of the system a step.
    # L z = right-hand side is solved while L is computed; rest is the right-hand side minus L z.
    rest = tl.where(nonzero, inverse_length * b_n, 0.0)
    # Squared length of each row outside the span of the chosen rows.
    outside = tl.where(nonzero, 1.0, tl.where(real, 0.0, -1.0)).to(tl.float64)
    # The step at which each row was chosen; ROWS: never.
    step = tl.full((ROWS,), ROWS, dtype=tl.int32)
    z = tl.zeros((ROWS,), dtype=tl.float64)
    smallest = tl.max(outside, axis=0)
    for j in range(k):
        chosen = tl.argmax(outside, axis=0)
        # Nowhere, once all remaining rows are dependent.
        here = (n == chosen) & (outside > TOLERANCE)
        pivot = tl.sum(tl.where(here, outside, 0.0), axis=0)
        inverse_root = tl.where(pivot > 0, 1.0 / tl.sqrt(tl.where(pivot > 0, pivot, 1.0)), 0.0)
        column = tl.load(K + chosen * k + n, mask=real, other=0.0)
        column *= inverse_length * tl.sum(tl.where(here, inverse_length, 0.0), axis=0)
        for start in range(0, j, PANEL):
            m = start + tl.arange(0, PANEL)
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

    # Phase 3: back substitution, L^T y = z.
    y = tl.zeros((ROWS,), dtype=tl.float64)
    for i in range(k):
        j = k - 1 - i
        here = step == j
        column = tl.load(factor + j * k + n, mask=real, other=0.0)
        y = tl.where(here, (z - tl.sum(column * y, axis=0)) / tl.where(here, column, 1.0), y)

    # Phase 4: the coefficients, and how far they leave the system unsolved.
    c = tl.where(finite, inverse_length * y, float("nan"))
    tl.store(coefficients + n, c, mask=real)
    tl.debug_barrier()
    left = b_n
    for start in range(0, k, PANEL):
        m = start + tl.arange(0, PANEL)
        values = tl.load(
            K + m[:, None] * k + n[None, :], mask=(m < k)[:, None] & real[None, :], other=0.0
        )
        left -= tl.sum(values * tl.load(coefficients + m, mask=m < k, other=0.0)[:, None], axis=0)
    length = tl.load(square + problem)
    residual = tl.max(tl.abs(left) * inverse_length, axis=0) + ROUNDING * tl.sqrt(
        tl.sum(y * y, axis=0)
    )
    residual = tl.where(
        length > 0, residual / tl.maximum(tl.sqrt(length), 2.2250738585072014e-308), 0.0
    )

    # Phase 5: the report.
    kept = tl.maximum(length - tl.sum(tl.where(real, b_n * c, 0.0), axis=0), 0.0)
    tl.store(report + problem, rank.to(tl.float64))
    tl.store(report + problems + problem, tl.where(finite, residual, float("nan")))
    tl.store(report + 2 * problems + problem, tl.where(finite, kept, float("nan")))
    full = tl.where(rank == k, smallest, 0.0)
    tl.store(report + 3 * problems + problem, tl.where(finite, full, float("nan")))


def solve(K: Tensor, b: Tensor, square: Tensor, rounding: float = FLOAT32_ROUNDING) -> Solution:
    """See `projection.solve`.

    The coefficients belong to a largest independent subset of the rows and are 0 for all others;
    those of the plain version have minimum norm. u_perp is the same.

    For inner products that are accurate to float64, the rows of that subset keep a cosine of at
    most 1e-9 with u_perp, all others of at most sqrt(PIVOT_TOLERANCE) = 3e-6. The error of u_perp
    is at most 1e-14 k |u| / pivot, where pivot is the last one. A step of iterative refinement was
    tried and improves neither.
    """
    k, batch = K.shape[-1], K.shape[:-2]
    problems = batch.numel()
    K, b, square = K.contiguous(), b.contiguous(), square.contiguous()
    factor, coefficients = torch.empty_like(K), torch.empty_like(b)
    report = torch.empty(4, *batch, dtype=torch.float64, device=K.device)
    rows = triton.next_power_of_2(k)
    solve_kernel[(problems,)](
        K, b, square, factor, coefficients, report, k, problems,
        TOLERANCE=PIVOT_TOLERANCE, ROUNDING=rounding, ROWS=rows, PANEL=PANEL,
        num_warps=min(max(1, rows // 32), 8), enable_fp_fusion=True,
    )  # fmt: skip
    return Solution(coefficients, *report)
