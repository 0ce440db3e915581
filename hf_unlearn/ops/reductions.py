"""The two passes over the rows in plain torch: the CPU path, the fallback, and what the kernels are
tested against."""

from collections.abc import Iterator

import torch
from torch import Tensor

from .doubles import doubled, home_of_doubles, moved, summed

# Values of the rows that are converted at a time: few enough to stay in a CPU's caches, enough to
# fill a GPU.
CHUNK = {"cpu": 2**18, "cuda": 2**26}
# Columns of a float32 product: its sum is rounded to float32, the sum over all such products is
# not.
BLOCK = 2**14


def inner_products(
    rows: Tensor, u: Tensor | None = None, exact: bool = False
) -> tuple[Tensor, Tensor]:
    """K = A A^T and b = A u.

    Args:
        rows: A (k, d) in any floating dtype; rows may lie apart (any stride).
        u: (d,) in any floating dtype, None for zero.
        exact: multiply and add in float64. Otherwise products are float32 (exact for half
            precision), added in float32 within a few hundred to thousand columns and in float64
            from there: an error of about 1e-7 |g_n| |g_m|, which well-conditioned rows bear
            (`Solution.pivot` tells). Float64 rows always are exact.

    Returns:
        K (k, k) and b (k,) in float64 (on the CPU for devices without it). The same bits in each
        run on the same machine.
    """
    # A float32 product that may be rounded to tf32 or bfloat16 is no float32 product.
    exact = (
        exact or rows.dtype == torch.float64 or torch.get_float32_matmul_precision() != "highest"
    )
    shares = [
        _of_part(part, None if u is None else u[start : start + part.shape[1]], exact)
        for start, part in _parts(
            rows, rows.shape[1] if rows.dtype == torch.float32 and not exact else _columns(rows)
        )
    ]
    grams, dots = zip(*shares)
    return sum(grams), sum(dots)


def product_inner_products(B: Tensor, X: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """K (k, k) and b (k,) of the rows G_n = B_n^T X_n, the per-sample gradients of a matrix
    product, always exact: the values of G are added up in float32 at least, their inner products in
    float64.

    Args:
        B: output gradients (k, T, o), in any floating dtype.
        X: inputs (k, T, i), in the dtype of B.
        u: (o, i), in any floating dtype.
    """
    wide = torch.promote_types(B.dtype, torch.float32)
    return inner_products((B.mT.to(wide) @ X.to(wide)).flatten(1), u.flatten(), exact=True)


def _of_part(rows: Tensor, u: Tensor | None, exact: bool) -> tuple[Tensor, Tensor]:
    k, d = rows.shape
    rows = doubled(rows) if exact else rows.to(torch.float32)
    u = rows.new_zeros(d) if u is None else doubled(u) if exact else u.to(rows.dtype)
    if exact:
        return rows @ rows.T, rows @ u
    whole = d - d % BLOCK
    # (d / BLOCK, k, BLOCK)
    blocks, rest = rows[:, :whole].unflatten(1, (-1, BLOCK)).transpose(0, 1), rows[:, whole:]
    gram = summed(blocks @ blocks.mT, 0) + doubled(rest @ rest.T)
    # One by one, since batches of matrix-vector products are several times slower on a CPU.
    dots = sum(
        doubled(part @ u[start : start + part.shape[1]])
        for start, part in _parts(rows, _columns(rows))
    )
    return gram, dots


def _parts(rows: Tensor, columns: int) -> Iterator[tuple[int, Tensor]]:
    """Where each few columns start, and these columns."""
    for start in range(0, max(rows.shape[1], 1), max(columns, 1)):
        yield start, rows[:, start : start + columns]


def weighted_sum(
    rows: Tensor,
    weights: Tensor,
    u: Tensor | None = None,
    scale: float = 1.0,
    dtype: torch.dtype | None = None,
    exact: bool = False,
) -> Tensor:
    """sum_n w_n g_n, or scale * u + sum_n w_n g_n in the same pass.

    Args:
        rows: A (k, d) with rows g_n, in any floating dtype; rows may lie apart (any stride).
        weights: w (k,).
        u: (d,) in any floating dtype.
        dtype: of the result; rows' own if None.
        exact: add up in float64. Otherwise in float32 (float64 rows: in float64).

    Returns:
        (d,), where rows are; in float64 where that is (`home_of_doubles`).
    """
    d, dtype = rows.shape[1], dtype or rows.dtype
    wide = torch.float64 if exact else torch.promote_types(rows.dtype, torch.float32)
    widened = doubled if exact else lambda x: x.to(wide)
    home = home_of_doubles(rows.device)
    weights = moved(weights, wide, home if exact else rows.device)
    total = torch.empty(d, dtype=dtype, device=home if dtype == torch.float64 else rows.device)
    for start, part in _parts(rows, d if rows.dtype == wide else _columns(rows)):
        share = weights @ widened(part)
        if u is not None:
            share.add_(widened(u[start : start + len(share)]), alpha=scale)
        total[start : start + len(share)] = moved(share, dtype, total.device)
    return total


def _columns(rows: Tensor) -> int:
    return max(1, CHUNK.get(rows.device.type, CHUNK["cpu"]) // len(rows))
