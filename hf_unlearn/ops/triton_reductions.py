"""Triton kernels for the two passes over the rows: their inner products, and their weighted sum.

Same signatures and meaning as the plain torch versions in `reductions.py`. Both kernels read each
row once (more than `MOST_ROWS` rows: once for each block of them). Block sizes are fixed, not tuned
at run time, so that the order of additions, and with it every bit of the result, is the same in
each run on the same kind of card.
"""

import os

import torch
import triton
import triton.language as tl
from torch import Tensor

# decides when triton is imported: kernels run on the CPU
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
# Rows that one program multiplies with each other: their inner products are what it holds in
# registers.
MOST_ROWS = 64
# Padded number of rows -> columns of a tile, warps, programs per multiprocessor. One warp does the
# work of 16 x 16 inner products; registers and shared memory (two tiles are on their way) allow
# this many programs.
SHAPES = {16: (128, 1, 12), 32: (64, 4, 4), 64: (64, 8, 2)}
STAGES = 3
# values of half-precision rows that are widened at a time: what the L2 cache of a large GPU holds
WIDENED = 2**23
WEIGHTED_ROWS = 16
WEIGHTED_BYTES = 2048  # of each row in one tile: 16 for each of 128 threads
WEIGHTED_WARPS = 4


@triton.jit
def store_sums(partial, gram, dots, n, m, second, k):
    """partial (k + 1, k)[n, m] = gram, and in its last line dots, which belong to the first block
    of m."""
    tl.store(partial + n[:, None] * k + m[None, :], gram, mask=(n < k)[:, None] & (m < k)[None, :])
    if second == 0:
        tl.store(partial + k * k + n, dots, mask=n < k)


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
    HAS_U: tl.constexpr,
    ONE_BLOCK: tl.constexpr,
    FACTOR: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """partial[program] (k + 1, k) = [rows; u] rows^T over every `programs`-th tile of columns; the
    lower triangle."""
    program = tl.program_id(0).to(tl.int64)
    first, second = tl.program_id(1) * ROWS, tl.program_id(2) * ROWS
    if first < second:
        return
    n, m = first + tl.arange(0, ROWS), second + tl.arange(0, ROWS)
    n_offsets, m_offsets = n.to(tl.int64)[:, None] * stride, m.to(tl.int64)[:, None] * stride
    gram = tl.zeros((ROWS, ROWS), dtype=tl.float64)
    dots = tl.zeros((ROWS,), dtype=tl.float64)
    for tile in range(program, tiles, programs):
        columns = tile * COLUMNS + tl.arange(0, COLUMNS)
        inside = columns < d
        a = tl.load(
            rows + n_offsets + columns[None, :], mask=(n < k)[:, None] & inside[None, :], other=0.0
        )
        if ONE_BLOCK:
            b = a
        else:
            b = tl.load(
                rows + m_offsets + columns[None, :],
                mask=(m < k)[:, None] & inside[None, :],
                other=0.0,
            )
        if FACTOR == tl.float64:
            gram = tl.dot(a.to(tl.float64), tl.trans(b.to(tl.float64)), gram, out_dtype=tl.float64)
        else:
            gram += tl.dot(a.to(FACTOR), tl.trans(b.to(FACTOR)), input_precision="ieee").to(
                tl.float64
            )
        if HAS_U:
            SUM: tl.constexpr = tl.float64 if FACTOR == tl.float64 else tl.float32
            u_tile = tl.load(u + columns, mask=inside, other=0.0).to(SUM)
            dots += tl.sum(a.to(SUM) * u_tile[None, :], axis=1).to(tl.float64)
    store_sums(partial + program * (k + 1) * k, gram, dots, n, m, second, k)


def inner_products(rows: Tensor, u: Tensor | None, exact: bool) -> tuple[Tensor, Tensor]:
    """See `reductions.inner_products`.

    Each program adds its tiles' products up in float64 registers; the programs' sums are added up
    by torch, in a fixed order. Within a tile products are float32, or exact ones of half precision
    on tensor cores. `exact` multiplies in float64, on tensor cores where those have it (A100, H100,
    H200: by their data sheets at the rate of float32), on other cards at a fraction of float32's
        rate.
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
        rows, rows if u is None else u.contiguous(), partial, rows.stride(0), k, d, tiles, len(partial),
        HAS_U=u is not None, ONE_BLOCK=k <= padded, ROWS=padded, COLUMNS=columns,
        FACTOR=_factor(rows, exact),
        num_warps=warps, num_stages=STAGES, enable_fp_fusion=True,
    )  # fmt: skip
    return added_up(partial, one_block=k <= padded)


def grid_and_sums(
    samples: Tensor, block: int, tiles: int, resident: int
) -> tuple[tuple[int, int, int], Tensor]:
    """(programs, blocks, blocks), and memory for what each program adds up of [rows; u] rows^T:
    (programs, k + 1, k).

    Args:
        samples: (k, ...) on the device.
        block: of how many samples a program multiplies with each other.
        tiles: that the programs share.
        resident: programs for each multiprocessor.
    """
    k, blocks = len(samples), triton.cdiv(len(samples), block)
    pairs = blocks * (blocks + 1) // 2
    programs = max(1, min(tiles, triton.cdiv(_multiprocessors(samples) * resident, pairs)))
    return (programs, blocks, blocks), samples.new_empty(programs, k + 1, k, dtype=torch.float64)


def added_up(partial: Tensor, one_block: bool) -> tuple[Tensor, Tensor]:
    """K and b of all programs' sums; of several blocks, the lower triangle is what there is."""
    total = partial.sum(0)
    gram, dots = total[:-1], total[-1]
    return (gram if one_block else gram.tril() + gram.tril(-1).T), dots


def _inner_products_of_widened(rows: Tensor, u: Tensor | None) -> tuple[Tensor, Tensor]:
    """Exact ones of half-precision rows: Triton before 3.9 compiles no float64 product of what it
    loads as 16 bits."""
    step = max(1, WIDENED // len(rows))
    parts = [slice(start, start + step) for start in range(0, rows.shape[1], step)]
    shares = [
        inner_products(rows[:, part].float(), None if u is None else u[part], True)
        for part in parts
    ]
    grams, dots = zip(*shares)
    return sum(grams), sum(dots)


@triton.jit
def weighted_sum_kernel(
    rows,
    weights,
    u,
    out,
    stride,
    k,
    d,
    scale,
    HAS_U: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """out = weights rows + scale u for one tile of columns."""
    columns = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < d
    total = tl.zeros((COLUMNS,), dtype=tl.float32)
    if HAS_U:
        total += scale * tl.load(u + columns, mask=inside, other=0.0).to(tl.float32)
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


def weighted_sum(
    rows: Tensor, weights: Tensor, u: Tensor | None, scale: float, dtype: torch.dtype
) -> Tensor:
    """See `reductions.weighted_sum`; for rows of at most 32 bits."""
    k, d = rows.shape
    out = torch.empty(d, dtype=dtype, device=rows.device)
    rows = rows if rows.stride(1) == 1 else rows.contiguous()
    columns = WEIGHTED_BYTES // rows.element_size()
    weighted_sum_kernel[(triton.cdiv(d, columns),)](
        rows, weights.contiguous(), rows if u is None else u.contiguous(), out, rows.stride(0), k, d, float(scale),
        HAS_U=u is not None, ROWS=min(triton.next_power_of_2(k), WEIGHTED_ROWS), COLUMNS=columns,
        num_warps=WEIGHTED_WARPS, enable_fp_fusion=True,
    )  # fmt: skip
    return out


def _multiprocessors(tensor: Tensor) -> int:
    if tensor.is_cuda:
        return torch.cuda.get_device_properties(tensor.device).multi_processor_count
    return 1


def _factor(rows: Tensor, exact: bool) -> tl.dtype:
    """What the factors of inner products are converted to before they are multiplied."""
    if exact or rows.dtype == torch.float64:
        return tl.float64
    if rows.dtype == torch.float32 or INTERPRETED:  # numpy has no bfloat16
        return tl.float32
    return tl.bfloat16 if rows.dtype == torch.bfloat16 else tl.float16
