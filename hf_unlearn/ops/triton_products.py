"""Triton kernel for the inner products of per-sample gradients of a matrix product.

Sample n's gradient of a weight (o, i) is G_n = B_n^T X_n. A program computes the same tile of all
G_n on chip with one batched matrix product, adds the tile's share to their inner products, and
drops it. So G is never in memory: only B and X are read, once for each row and each column of
tiles. A multiprocessor holds small tiles of 16 samples. With more samples, a program takes two
blocks of them at a time, so each tile is computed as often as there are blocks.
`per_sample/inner_products.py` compares this cost with the other strategies.
"""

import triton
import triton.language as tl
from torch import Tensor

from .triton_reductions import factor_type, grid_and_sums, store_sums, sum_over_programs

# Samples whose tiles one program holds and multiplies with each other.
SAMPLE_BLOCK = 16
# Positions that are loaded at a time.
POSITIONS = 16
WARPS = 8
# Bytes of a value -> lines and columns of a tile, stages. A thread's registers limit the tile while
# positions are summed, with the three products that float32 takes.
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
    """G_n[lines, columns] (BLOCK, LINES, COLUMNS) in float32 for the samples n; zero outside."""
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
    """The even and the odd columns of values (..., even)."""
    SHAPE: tl.constexpr = (values.shape[0], values.shape[1], values.shape[2] // 2, 2)
    return tl.split(tl.reshape(values, SHAPE))


@triton.jit
def add_inner_products(K, G, H, WARPS: tl.constexpr):
    """K (WARPS, n, m) + inner products of G (n, ...) with H (m, ...) in float64.

    Each warp sums a share of the values.
    """
    SIZE: tl.constexpr = G.shape[1] * G.shape[2] // WARPS
    # (WARPS, n, SIZE) and (WARPS, SIZE, m)
    G = tl.permute(tl.reshape(G, (G.shape[0], WARPS, SIZE)), (1, 0, 2)).to(tl.float64)
    H = tl.permute(tl.reshape(H, (H.shape[0], WARPS, SIZE)), (1, 2, 0)).to(tl.float64)
    return tl.dot(G, H, K, out_dtype=tl.float64)


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
    """partial[program] (k + 1, k) = [G; u] G^T over every `programs`-th tile of the weight.

    Of K, only the lower triangle of blocks is written. The inner products of a tile are computed
    for a quarter of its columns at a time, so that their float64 copies fit into shared memory.
    """
    program = tl.program_id(0).to(tl.int64)
    first, second = tl.program_id(1) * BLOCK, tl.program_id(2) * BLOCK
    if first < second:
        return
    n, m = first + tl.arange(0, BLOCK), second + tl.arange(0, BLOCK)
    K = tl.zeros((WARPS, BLOCK, BLOCK), dtype=tl.float64)
    b = tl.zeros((BLOCK,), dtype=tl.float64)
    across = tl.cdiv(i, COLUMNS)
    for tile in range(program, tiles, programs):
        lines = (tile // across) * LINES + tl.arange(0, LINES)
        columns = (tile % across) * COLUMNS + tl.arange(0, COLUMNS)
        G = tile_of_gradients(
            B, X, n, lines, columns, k, T, o, i, FACTOR, BLOCK, LINES, COLUMNS, POSITIONS
        )
        if second == 0:
            inside = (lines < o)[:, None] & (columns < i)[None, :]
            u_tile = tl.load(u + lines[:, None] * i + columns[None, :], mask=inside, other=0.0).to(
                tl.float32
            )
            b += tl.sum(tl.sum(G * u_tile[None, :, :], axis=2).to(tl.float64), axis=1)
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
        K = add_inner_products(K, G_0, H_0, WARPS)
        K = add_inner_products(K, G_1, H_1, WARPS)
        K = add_inner_products(K, G_2, H_2, WARPS)
        K = add_inner_products(K, G_3, H_3, WARPS)
    store_sums(partial + program * (k + 1) * k, tl.sum(K, axis=0), b, n, m, second, k)


def product_inner_products(B: Tensor, X: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """See `reductions.product_inner_products`; for B and X of at most 32 bits.

    Values of G are summed in float32 and never rounded to less: half precision on tensor cores,
    float32 as three tf32 products, which keep its precision. Their inner products are float64, on
    tensor cores where those have it.
    """
    (k, T, o), i = B.shape, X.shape[2]
    lines, columns, stages = TILES[B.element_size()]
    tiles = triton.cdiv(o, lines) * triton.cdiv(i, columns)
    grid, partial = grid_and_sums(B, SAMPLE_BLOCK, tiles, resident=1)
    product_inner_products_kernel[grid](
        B.contiguous(), X.contiguous(), u.contiguous(), partial, k, T, o, i, tiles, len(partial),
        ONE_BLOCK=k <= SAMPLE_BLOCK, FACTOR=factor_type(B, False),
        BLOCK=SAMPLE_BLOCK, LINES=lines, COLUMNS=columns, POSITIONS=POSITIONS, WARPS=WARPS,
        num_warps=WARPS, num_stages=stages, enable_fp_fusion=True,
    )  # fmt: skip
    return sum_over_programs(partial, one_block=k <= SAMPLE_BLOCK)
