"""Triton kernel for the inner products of per-sample gradients of a matrix product, without the
gradients in memory.

Sample n's gradient of a weight (o, i) is G_n = B_n^T X_n. A program makes the same tile of all G_n
on chip, one batched matrix product, adds the tile's share to their inner products, and drops it. So
what moves is B and X only, once for each row and each column of tiles. A multiprocessor holds small
tiles of 16 samples; of more samples it takes two blocks at a time, so that each tile is made as
often as there are blocks. What that costs beside the other ways to inner products is weighed in
`per_sample/inner_products.py`.
"""

import triton
import triton.language as tl
from torch import Tensor

from .triton_reductions import _factor, added_up, grid_and_sums, store_sums

BLOCK = 16  # samples whose tiles one program holds, and so multiplies with each other
POSITIONS = 16  # that are loaded at a time
WARPS = 8
# Bytes of a value -> lines and columns of a tile, stages: as many as a thread's registers hold
# while positions are added up, with the three products that float32 takes.
TILES = {2: (64, 32, 3), 4: (32, 32, 2)}


@triton.jit
def tile_of_gradients(
    B,
    X,
    n,
    lines,
    columns,
    k,
    T,
    o,
    i,
    FACTOR: tl.constexpr,
    BLOCK: tl.constexpr,
    LINES: tl.constexpr,
    COLUMNS: tl.constexpr,
    POSITIONS: tl.constexpr,
):
    """G_n[lines, columns] for the samples n, (BLOCK, LINES, COLUMNS) in float32; zero outside."""
    tile = tl.zeros((BLOCK, LINES, COLUMNS), dtype=tl.float32)
    first = n.to(tl.int64)[:, None, None] * T
    for start in range(0, T, POSITIONS):
        t = start + tl.arange(0, POSITIONS)
        there = (n < k)[:, None, None] & (t < T)[None, :, None]
        position = first + t[None, :, None]
        b = tl.load(
            B + position * o + lines[None, None, :],
            mask=there & (lines < o)[None, None, :],
            other=0.0,
        )
        x = tl.load(
            X + position * i + columns[None, None, :],
            mask=there & (columns < i)[None, None, :],
            other=0.0,
        )
        tile = tl.dot(
            tl.permute(b.to(FACTOR), (0, 2, 1)), x.to(FACTOR), tile, input_precision="tf32x3"
        )
    return tile


@triton.jit
def halves(values):
    """(..., even) -> its even and its odd columns."""
    SHAPE: tl.constexpr = (values.shape[0], values.shape[1], values.shape[2] // 2, 2)
    return tl.split(tl.reshape(values, SHAPE))


@triton.jit
def add_inner_products(gram, a, b, WARPS: tl.constexpr):
    """gram (WARPS, n, m) + inner products of a (n, ...) with b (m, ...) in float64, of which each
    warp adds up a share."""
    SIZE: tl.constexpr = a.shape[1] * a.shape[2] // WARPS
    a = tl.permute(tl.reshape(a, (a.shape[0], WARPS, SIZE)), (1, 0, 2)).to(tl.float64)
    b = tl.permute(tl.reshape(b, (b.shape[0], WARPS, SIZE)), (1, 2, 0)).to(tl.float64)
    return tl.dot(a, b, gram, out_dtype=tl.float64)


@triton.jit
def product_inner_products_kernel(
    B,
    X,
    u,
    partial,
    k,
    T,
    o,
    i,
    tiles,
    programs,
    ONE_BLOCK: tl.constexpr,
    FACTOR: tl.constexpr,
    BLOCK: tl.constexpr,
    LINES: tl.constexpr,
    COLUMNS: tl.constexpr,
    POSITIONS: tl.constexpr,
    WARPS: tl.constexpr,
):
    """partial[program] (k + 1, k) = [G; u] G^T over every `programs`-th tile of the weight; the
    lower triangle of blocks.

    A tile's columns are measured in four parts, so that their float64 copies fit into shared
    memory.
    """
    program = tl.program_id(0).to(tl.int64)
    first, second = tl.program_id(1) * BLOCK, tl.program_id(2) * BLOCK
    if first < second:
        return
    n, m = first + tl.arange(0, BLOCK), second + tl.arange(0, BLOCK)
    gram = tl.zeros((WARPS, BLOCK, BLOCK), dtype=tl.float64)
    dots = tl.zeros((BLOCK,), dtype=tl.float64)
    across = tl.cdiv(i, COLUMNS)
    for place in range(program, tiles, programs):
        lines = (place // across) * LINES + tl.arange(0, LINES)
        columns = (place % across) * COLUMNS + tl.arange(0, COLUMNS)
        G = tile_of_gradients(
            B, X, n, lines, columns, k, T, o, i, FACTOR, BLOCK, LINES, COLUMNS, POSITIONS
        )
        if second == 0:
            inside = (lines < o)[:, None] & (columns < i)[None, :]
            u_tile = tl.load(u + lines[:, None] * i + columns[None, :], mask=inside, other=0.0).to(
                tl.float32
            )
            dots += tl.sum(tl.sum(G * u_tile[None, :, :], axis=2).to(tl.float64), axis=1)
        if ONE_BLOCK:
            H = G
        elif first == second:
            H = G
        else:
            H = tile_of_gradients(
                B, X, m, lines, columns, k, T, o, i, FACTOR, BLOCK, LINES, COLUMNS, POSITIONS
            )
        G_even, G_odd = halves(G)
        H_even, H_odd = halves(H)
        G_0, G_2 = halves(G_even)
        H_0, H_2 = halves(H_even)
        G_1, G_3 = halves(G_odd)
        H_1, H_3 = halves(H_odd)
        gram = add_inner_products(gram, G_0, H_0, WARPS)
        gram = add_inner_products(gram, G_1, H_1, WARPS)
        gram = add_inner_products(gram, G_2, H_2, WARPS)
        gram = add_inner_products(gram, G_3, H_3, WARPS)
    store_sums(partial + program * (k + 1) * k, tl.sum(gram, axis=0), dots, n, m, second, k)


def product_inner_products(B: Tensor, X: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """See `reductions.product_inner_products`; for B and X of at most 32 bits.

    Values of G are added up in float32 (of half precision: by tensor cores; of float32: from three
    tf32 products, which keep its digits) and never rounded to less; their inner products are
    float64, by tensor cores where those have it.
    """
    (k, T, o), i = B.shape, X.shape[2]
    lines, columns, stages = TILES[B.element_size()]
    tiles = triton.cdiv(o, lines) * triton.cdiv(i, columns)
    grid, partial = grid_and_sums(B, BLOCK, tiles, resident=1)
    product_inner_products_kernel[grid](
        B.contiguous(), X.contiguous(), u.contiguous(), partial, k, T, o, i, tiles, len(partial),
        ONE_BLOCK=k <= BLOCK, FACTOR=_factor(B, False),
        BLOCK=BLOCK, LINES=lines, COLUMNS=columns, POSITIONS=POSITIONS, WARPS=WARPS,
        num_warps=WARPS, num_stages=stages, enable_fp_fusion=True,
    )  # fmt: skip
    return added_up(partial, one_block=k <= BLOCK)
