"""Inner products and weighted sums of the rows in plain torch.

The CPU runs these, a GPU without working kernels falls back to them, and the kernels are tested
against them.
"""

import functools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from .doubles import float64_device, move_to, sum_float64, to_float64

# How many values of the rows are converted at a time: few enough to stay in a CPU's caches, enough
# to fill a GPU.
CONVERTED_VALUES = {"cpu": 2**18, "cuda": 2**26}
# Columns of one float32 product. The product is rounded to float32; the products are summed in
# float64.
FLOAT32_COLUMNS = 2**14
# From this number of rows on, K is computed on and above its diagonal only.
MANY_ROWS = 128


def inner_products(rows: Tensor, u: Tensor, exact: bool = False) -> tuple[Tensor, Tensor]:
    """K = A A^T and b = A u.

    Args:
        rows: A (k, d) in any floating dtype, with any strides.
        u: (d,) in any floating dtype.
        exact: multiply and add in float64. Otherwise products are float32 (exact for half
            precision). They are summed in float32 over a few hundred to a few thousand columns, and
            in float64 from there. The error is about 1e-7 |g_n| |g_m|, which is small enough for
            well-conditioned rows (see `Solution.pivot`). Float64 rows are always exact.

    Returns:
        K (k, k) and b (k,) in float64 (on the CPU for devices without float64), with the same bits
        in every run on the same machine.
    """
    # TF32 or bfloat16 matmuls would not reach float32 precision.
    exact = (
        exact or rows.dtype == torch.float64 or torch.get_float32_matmul_precision() != "highest"
    )
    whole = rows.dtype == torch.float32 and not exact
    shares = [
        _inner_products_of_part(part, u[start : start + part.shape[1]], exact)
        for start, part in _parts(rows, rows.shape[1] if whole else _columns(rows))
    ]
    Ks, bs = zip(*shares)
    return sum(Ks), sum(bs)


def product_inner_products(B: Tensor, X: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """K (k, k) and b (k,) of G_n = B_n^T X_n, the per-sample gradients of a matrix product.

    Always exact: the values of G are summed in float32 at least, their inner products in float64.

    Args:
        B: output gradients (k, T, o), in any floating dtype.
        X: inputs (k, T, i), in the dtype of B.
        u: (o, i), in any floating dtype.
    """
    wide = torch.promote_types(B.dtype, torch.float32)
    G = B.mT.to(wide) @ X.to(wide)  # (k, o, i)
    return inner_products(G.flatten(1), u.flatten(), exact=True)


def _inner_products_of_part(rows: Tensor, u: Tensor, exact: bool) -> tuple[Tensor, Tensor]:
    """K and b of rows (k, d) and u (d,)."""
    if exact:
        rows = to_float64(rows)
        return _with_each_other(rows), rows @ to_float64(u)
    rows, u = rows.to(torch.float32), u.to(torch.float32)
    end = rows.shape[1] - rows.shape[1] % FLOAT32_COLUMNS
    # (d / FLOAT32_COLUMNS, k, FLOAT32_COLUMNS)
    blocks = rows[:, :end].unflatten(1, (-1, FLOAT32_COLUMNS)).transpose(0, 1)
    rest = rows[:, end:]
    K = sum_float64(_with_each_other(blocks), 0) + to_float64(_with_each_other(rest))
    # One block at a time: batched matrix-vector products are several times slower on a CPU.
    products = (
        to_float64(part @ u[start : start + part.shape[1]])
        for start, part in _parts(rows, _columns(rows))
    )
    return K, functools.reduce(torch.add, products)


def _with_each_other(rows: Tensor) -> Tensor:
    """The inner products (..., k, k) of rows (..., k, d)."""
    k = rows.shape[-2]
    if k < MANY_ROWS:
        return rows @ rows.mT
    # A little more than half of the products: those of a few rows with themselves and all that
    # follow.
    few, upper = math.ceil(k / 8), rows.new_zeros(*rows.shape[:-1], k)
    for start in range(0, k, few):
        some = rows[..., start : start + few, :]
        upper[..., start : start + few, start:] = some @ rows[..., start:, :].mT
    return upper.triu() + upper.triu(1).mT


def _parts(rows: Tensor, columns: int) -> Iterator[tuple[int, Tensor]]:
    """Blocks of columns, each with the index of its first column."""
    for start in range(0, max(rows.shape[1], 1), max(columns, 1)):
        yield start, rows[:, start : start + columns]


def weighted_sum(
    rows: Tensor, weights: Tensor, dtype: torch.dtype | None = None, exact: bool = False
) -> Tensor:
    """sum_n w_n g_n.

    Args:
        rows: A (k, d) with rows g_n, in any floating dtype, with any strides.
        weights: w (k,).
        dtype: dtype of the result; None: that of the rows.
        exact: add in float64. Otherwise in float32 (float64 rows: in float64).

    Returns:
        (d,), on the device of the rows; a float64 result is on `float64_device`.
    """
    d, dtype = rows.shape[1], dtype or rows.dtype
    wide = torch.float64 if exact else torch.promote_types(rows.dtype, torch.float32)
    widened = to_float64 if exact else lambda x: x.to(wide)
    home = float64_device(rows.device)
    weights = move_to(weights, wide, home if exact else rows.device)
    total = torch.empty(d, dtype=dtype, device=home if dtype == torch.float64 else rows.device)
    for start, part in _parts(rows, d if rows.dtype == wide else _columns(rows)):
        share = weights @ widened(part)
        total[start : start + len(share)] = move_to(share, dtype, total.device)
    return total


def _columns(rows: Tensor) -> int:
    """How many columns are converted at a time."""
    values = CONVERTED_VALUES.get(rows.device.type, CONVERTED_VALUES["cpu"])
    return max(1, values // len(rows))
