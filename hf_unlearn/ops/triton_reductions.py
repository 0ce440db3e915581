"""Triton kernels for the inner products of the rows and for their weighted sum.

Signatures and meaning are those of the plain torch versions in `reductions.py`. Both kernels read
each row once (more than `MOST_ROWS` rows: once for each block of them). Block sizes are fixed
rather than tuned at run time. So the order of additions, and with it every bit of the result, is
the same in each run on the same kind of card.
"""

import os

import torch
import triton
import triton.language as tl
from torch import Tensor

# Triton reads this when it is imported: kernels then run on the CPU.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
# Rows that one program multiplies with each other; it holds their inner products in registers.
MOST_ROWS = 64
# Padded number of rows -> columns of a tile, warps, programs per multiprocessor. One warp computes
# 16 x 16 inner products. Registers and shared memory (two tiles are being loaded at a time) limit
# the number of programs.
SHAPES = {16: (128, 1, 12), 32: (64, 4, 4), 64: (64, 8, 2)}
STAGES = 3
# Values of half-precision rows that are widened at a time: as many as the L2 cache of a large GPU
# holds.
WIDENED = 2**23
WEIGHTED_ROWS = 16
# Bytes of each row in one tile: 16 for each of 128 threads.
WEIGHTED_BYTES = 2048
WEIGHTED_WARPS = 4


@triton.jit
def store_sums(partial, K, b, n, m, second, k):
    """partial (k + 1, k)[n, m] = K, and its last row = b, which the first block of m stores."""
    tl.store(partial + n[:, None] * k + m[None, :], K, mask=(n < k)[:, None] & (m < k)[None, :])
    if second == 0:
        tl.store(partial + k * k + n, b, mask=n < k)


@triton.jit
def inner_products_kernel(
    rows,
    u,
    partial,
    stride,
    k,
    d,
    tiles,
    programs,
    ONE_BLOCK: tl.constexpr,
    FACTOR: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """partial[program] (k + 1, k) = [A; u] A^T over every `programs`-th tile of columns.

    Of K, only the lower triangle of blocks is written.
    """
    program = tl.program_id(0).to(tl.int64)
    first, second = tl.program_id(1) * ROWS, tl.program_id(2) * ROWS
    if first < second:
        return
    n, m = first + tl.arange(0, ROWS), second + tl.arange(0, ROWS)
    n_offsets, m_offsets = n.to(tl.int64)[:, None] * stride, m.to(tl.int64)[:, None] * stride
    K = tl.zeros((ROWS, ROWS), dtype=tl.float64)
    b = tl.zeros((ROWS,), dtype=tl.float64)
    SUM: tl.constexpr = tl.float64 if FACTOR == tl.float64 else tl.float32
    for tile in range(program, tiles, programs):
        columns = tile * COLUMNS + tl.arange(0, COLUMNS)
        inside = columns < d
        A_n = tl.load(
            rows + n_offsets + columns[None, :], mask=(n < k)[:, None] & inside[None, :], other=0.0
        )
        if ONE_BLOCK:
            A_m = A_n
        else:
            A_m = tl.load(
                rows + m_offsets + columns[None, :],
                mask=(m < k)[:, None] & inside[None, :],
                other=0.0,
            )
        if FACTOR == tl.float64:
            K = tl.dot(A_n.to(tl.float64), tl.trans(A_m.to(tl.float64)), K, out_dtype=tl.float64)
        else:
            K += tl.dot(A_n.to(FACTOR), tl.trans(A_m.to(FACTOR)), input_precision="ieee").to(
                tl.float64
            )
        u_tile = tl.load(u + columns, mask=inside, other=0.0).to(SUM)
        b += tl.sum(A_n.to(SUM) * u_tile[None, :], axis=1).to(tl.float64)
    store_sums(partial + program * (k + 1) * k, K, b, n, m, second, k)


def inner_products(rows: Tensor, u: Tensor, exact: bool) -> tuple[Tensor, Tensor]:
    """See `reductions.inner_products`.

    Each program sums the products of its tiles in float64 registers. Torch then sums over the
    programs, in a fixed order. Within a tile, products are float32, or exact products of half
    precision on tensor cores. With `exact` they are float64: on tensor cores where those have it
    (A100, H100, H200: at the rate of float32, by their data sheets), on other cards at a fraction
    of that rate.
    """
    if exact and rows.element_size() == 2:
        return _inner_products_of_widened(rows, u)
    k, d = rows.shape
    padded = min(max(16, triton.next_power_of_2(k)), MOST_ROWS)
    columns, warps, resident = SHAPES[padded]
    tiles = triton.cdiv(d, columns)
    grid, partial = grid_and_sums(rows, padded, tiles, resident)
    rows = rows if rows.stride(1) == 1 else rows.contiguous()
    inner_products_kernel[grid](
        rows, u.contiguous(), partial, rows.stride(0), k, d, tiles, len(partial),
        ONE_BLOCK=k <= padded, ROWS=padded, COLUMNS=columns, FACTOR=factor_type(rows, exact),
        num_warps=warps, num_stages=STAGES, enable_fp_fusion=True,
    )  # fmt: skip
    return sum_over_programs(partial, one_block=k <= padded)


def grid_and_sums(
    samples: Tensor, block: int, tiles: int, resident: int
) -> tuple[tuple[int, int, int], Tensor]:
    """The grid (programs, blocks, blocks), and memory (programs, k + 1, k) for [A; u] A^T.

    Each program writes its own sum.

    Args:
        samples: (k, ...) on the device.
        block: how many samples a program multiplies with each other.
        tiles: how many tiles the programs share.
        resident: programs for each multiprocessor.
    """
    k, blocks = len(samples), triton.cdiv(len(samples), block)
    pairs = blocks * (blocks + 1) // 2
    programs = max(1, min(tiles, triton.cdiv(_multiprocessors(samples) * resident, pairs)))
    return (programs, blocks, blocks), samples.new_empty(programs, k + 1, k, dtype=torch.float64)


def sum_over_programs(partial: Tensor, one_block: bool) -> tuple[Tensor, Tensor]:
    """K (k, k) and b (k,), summed over all programs.

    With several blocks, `partial` (programs, k + 1, k) has only the lower triangle of K.
    """
    total = partial.sum(0)
    K, b = total[:-1], total[-1]
    return (K if one_block else K.tril() + K.tril(-1).T), b


def _inner_products_of_widened(rows: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Exact inner products of half-precision rows, which are converted a few columns at a time.

    Triton before 3.9 compiles no float64 product of values that it loads as 16 bits.
    """
    step = max(1, WIDENED // len(rows))
    parts = [slice(start, start + step) for start in range(0, rows.shape[1], step)]
    Ks, bs = zip(*(inner_products(rows[:, part].float(), u[part], True) for part in parts))
    return sum(Ks), sum(bs)


@triton.jit
def weighted_sum_kernel(
    rows,
    weights,
    out,
    stride,
    k,
    d,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """out = weights A for one tile of columns."""
    columns = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < d
    total = tl.zeros((COLUMNS,), dtype=tl.float32)
    for first in range(0, k, ROWS):
        n = first + tl.arange(0, ROWS)
        w = tl.load(weights + n, mask=n < k, other=0.0).to(tl.float32)
        tile = tl.load(
            rows + n.to(tl.int64)[:, None] * stride + columns[None, :],
            mask=(n < k)[:, None] & inside[None, :],
            other=0.0,
        )
        total += tl.sum(w[:, None] * tile.to(tl.float32), axis=0)
    tl.store(out + columns, total, mask=inside)


def weighted_sum(rows: Tensor, weights: Tensor, dtype: torch.dtype) -> Tensor:
    """See `reductions.weighted_sum`; for rows of at most 32 bits."""
    k, d = rows.shape
    out = torch.empty(d, dtype=dtype, device=rows.device)
    rows = rows if rows.stride(1) == 1 else rows.contiguous()
    columns = WEIGHTED_BYTES // rows.element_size()
    weighted_sum_kernel[(triton.cdiv(d, columns),)](
        rows, weights.contiguous(), out, rows.stride(0), k, d,
        ROWS=min(triton.next_power_of_2(k), WEIGHTED_ROWS), COLUMNS=columns,
        num_warps=WEIGHTED_WARPS, enable_fp_fusion=True,
    )  # fmt: skip
    return out


def _multiprocessors(tensor: Tensor) -> int:
    if tensor.is_cuda:
        return torch.cuda.get_device_properties(tensor.device).multi_processor_count
    return 1


def factor_type(rows: Tensor, exact: bool) -> tl.dtype:
    """The dtype in which the values of rows are multiplied."""
    if exact or rows.dtype == torch.float64:
        return tl.float64
    # Interpreted kernels use numpy, which has no bfloat16.
    if rows.dtype == torch.float32 or INTERPRETED:
        return tl.float32
    return tl.bfloat16 if rows.dtype == torch.bfloat16 else tl.float16
