"""The two passes over the rows in plain torch: the CPU path, the fallback, and what the kernels are tested against."""

import torch
from torch import Tensor

# Values of the rows that are taken at a time: few enough to stay in a CPU's caches, enough to fill a GPU.
CHUNK = {"cpu": 2**18, "cuda": 2**26}


def inner_products(rows: Tensor, u: Tensor | None = None, exact: bool = False) -> tuple[Tensor, Tensor]:
    """K = A A^T and b = A u.

    Args:
        rows: A (k, d) in any floating dtype; rows may lie apart (any stride).
        u: (d,) in any floating dtype, None for zero.
        exact: multiply and add in float64. Otherwise products are float32 (exact for half precision), added in float32
            within a few hundred to thousand columns and in float64 from there: an error of about 1e-7 |g_n| |g_m|,
            which well-conditioned rows bear (`Solution.pivot` tells). Float64 rows always are exact.

    Returns:
        K (k, k) and b (k,) in float64. The same bits in each run on the same machine.
    """
    k, d = rows.shape
    # A float32 product that may be rounded to tf32 or bfloat16 is no float32 product.
    exact = exact or rows.dtype == torch.float64 or torch.get_float32_matmul_precision() != "highest"
    dtype = torch.float64 if exact else torch.float32
    gram = torch.zeros(k, k, dtype=torch.float64, device=rows.device)
    dots = torch.zeros(k, dtype=torch.float64, device=rows.device)
    step = _columns(rows)
    buffer = (
        None if rows.dtype == dtype else rows.new_empty(k, min(step, d), dtype=dtype)
    )  # new memory costs page faults
    for start in range(0, d, step):
        part = rows[:, start : start + step]
        wide = part if buffer is None else buffer[:, : part.shape[1]].copy_(part)
        gram += wide @ wide.T
        if u is not None:
            dots += wide @ u[start : start + step].to(dtype)
    return gram, dots


def weighted_sum(
    rows: Tensor, weights: Tensor, u: Tensor | None = None, scale: float = 1.0, dtype: torch.dtype | None = None
) -> Tensor:
    """sum_n w_n g_n, or scale * u + sum_n w_n g_n in the same pass.

    Args:
        rows: A (k, d) with rows g_n, in any floating dtype; rows may lie apart (any stride).
        weights: w (k,).
        u: (d,) in any floating dtype.
        dtype: of the result; rows' own if None.

    Returns:
        (d,). Added up in float32, in float64 for float64 rows.
    """
    d = rows.shape[1]
    wide = torch.promote_types(rows.dtype, torch.float32)
    weights, total = weights.to(wide), rows.new_empty(d, dtype=dtype or rows.dtype)
    step = d if rows.dtype == wide else _columns(rows)
    for start in range(0, d, max(step, 1)):
        part = weights @ rows[:, start : start + step].to(wide)
        if u is not None:
            part.add_(u[start : start + step].to(wide), alpha=scale)
        total[start : start + step] = part
    return total


def _columns(rows: Tensor) -> int:
    return max(1, CHUNK.get(rows.device.type, CHUNK["cpu"]) // len(rows))
