"""K = A A^T and b = A u of one parameter's rows, in the cheapest of the ways that its uses allow.

A weight (o, i) that k samples meet at T positions each has the rows G_n = B_n^T X_n. Costs, in
multiply-adds of a matrix product, with the weighted sum of the rows that follows:

    materialise   2 k T o i + k o i MEASURE          make the rows, a few lines at a time, and
    reduce them (kept)          k T o i + k o i (MEASURE + SUM)  the same, and keep them for the
    weighted sum ghost         (2 k T o i + (k T)^2 (o + i)) D    K[n, m] = sum((X_n X_m^T) * (B_n
    B_m^T)), b_n = sum(B_n * (X_n u^T)) fused         (1 + TILE) k T o i + k^2 o i D     a kernel
    makes a tile of all rows on chip and reduces it there

where gradient descent on the same batch costs k T o i for its plain sum of the rows, and D is what
float64 costs on cards that measure in it (`ops.doubles_are_fast`), else 1. So keeping the rows is
the cheapest where the memory allows it (`KEEP`) and T is not small. Ghost is for weights with many
lines and few positions, such as heads on pooled features and output layers over a vocabulary (ghost
clipping: Li et al., arXiv 2110.05679). The fused kernel, for a single product on those cards, saves
the rows' way through memory and pays for it with small tiles: at k = 16 its 64 x 32 take 21
operations per byte of half precision from the cache, a twelfth of what tensor cores could do. So it
is for few positions, too.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement
from typing import NamedTuple

import torch
from torch import Tensor

from .. import ops
from .rows import Dense, Lookup, Product, Rows, value_type, write_all, written_out

WAYS = ("materialise", "ghost", "fused")


class Costs(NamedTuple):
    """Multiply-adds of a matrix product that take as long as

    measure: making one value of G pass through memory for the inner products.
    sum: its share in the weighted sum.
    tile: one multiply-add of the fused kernel's product, for each block of `FUSED_BLOCK` samples.
    double: one multiply-add in float64.
    """

    measure: float
    sum: float
    tile: float
    double: float


# From one core's times at k = 8; tests/benchmarks/bench_ways.py found 29 of 30 choices within 1.3
# times the better way.
CPU = Costs(50, 8, math.inf, 1)
# By bytes of a value, from the H100's data sheet (tensor cores for two bytes, none for four) and
# 5.5 TB/s of its L2 cache; not confirmed by that yet.
CUDA = {2: Costs(500, 250, 8, 15), 4: Costs(80, 40, 1.5, 1)}
FUSED_BLOCK = 16  # as in ops.triton_products, which needs triton
# Values of G up to which a parameter's rows are kept; above it, memory counts more.
KEEP = {"cpu": 2**24, "cuda": 2**27}
# Values of G that are made at a time where they are not kept. They are reduced at once, so that on
# a GPU they never leave its L2 cache.
CHUNK = {"cpu": 2**21, "cuda": 2**23}


def choose(uses: Sequence[Rows], u: Tensor, way: str | None = None) -> str:
    """The given one of `WAYS` where it can be had, else the first; without one the cheapest, by the
    module's text. u (o, i)."""
    if way is not None and way not in WAYS:
        raise ValueError(
            f"the way to inner products is {way!r}, but must be one of {', '.join(WAYS)}, or None"
        )
    if way == "materialise" or not all(isinstance(use, (Product, Lookup)) for use in uses):
        return "materialise"
    single = len(uses) == 1 and isinstance(uses[0], Product) and uses[0].dtype != torch.float64
    for candidate in (way,) if way else _cheapest_first(uses, u):
        if candidate != "fused" or single and ops.fuses(u.device):
            return candidate
    return "materialise"


def _cheapest_first(uses: Sequence[Product | Lookup], u: Tensor) -> list[str]:
    """The ways, by what each costs (the module's text); u (o, i)."""
    k, width = uses[0].k, u.shape[1]
    T = sum(use.positions for use in uses)
    T_products = sum(use.positions for use in uses if isinstance(use, Product))
    products = k * T_products * u.numel()
    # of an embedding, those that somebody looks up
    lines = len(u) if products else min(len(u), k * T)
    values = k * lines * width
    cost = CUDA[min(4, value_type(uses).itemsize)] if u.is_cuda else CPU
    blocks, double = (
        math.ceil(k / FUSED_BLOCK),
        cost.double if ops.doubles_are_fast(u.device) else 1,
    )
    kept = values <= limit(KEEP, u.device)
    costs = {
        "materialise": products + values * cost.measure + (values * cost.sum if kept else products),
        # Of a product with a lookup (tied weights) and of two lookups, only X X^T is a product of
        # matrices.
        "ghost": double * (2 * products + (k * T_products) ** 2 * lines + (k * T) ** 2 * width),
        "fused": products * (1 + cost.tile * blocks) + values * k * double,
    }
    return sorted(WAYS, key=costs.get)


def ghost(uses: Sequence[Product | Lookup], u: Tensor, exact: bool) -> tuple[Tensor, Tensor]:
    """K (k, k) and b (k,) in float64 without making any row; u (o, i).

    Args:
        exact: multiply and add in float64, not in the precision that the uses have (float16:
            float32, since a scaled u does not fit into it).
    """
    if exact:
        uses, u = [use.to(torch.float64) for use in uses], u.double()
    elif any(use.dtype == torch.float16 for use in uses):
        uses = [use.to(torch.float32) for use in uses]
    k = len(uses[0].B)
    home = ops.home_of_doubles(u.device)
    K, b = (torch.zeros(shape, dtype=torch.float64, device=home) for shape in ((k, k), (k,)))
    for one, other in combinations_with_replacement(uses, 2):
        pairs = _pairs(one, other)
        K += pairs if one is other else pairs + pairs.T
    for use in uses:
        b += _with(use, u)
    return K, b


def _pairs(one: Product | Lookup, other: Product | Lookup) -> Tensor:
    """<G_n, G_m> (k, k) for the rows G_n of one use and G_m of another, in float64."""
    if isinstance(one, Lookup) and isinstance(other, Product):
        return _pairs(other, one).T
    k, B, E = len(one.B), one.B.flatten(0, 1), other.B.flatten(0, 1)
    wide = torch.promote_types(torch.float32, torch.promote_types(B.dtype, E.dtype))
    if isinstance(other, Product):
        shares = (one.X.flatten(0, 1) @ other.X.flatten(0, 1).T).to(wide) * (B @ E.T)
    elif isinstance(one, Product):  # the line ids_ms of G_n is sum_t B_nt[ids_ms] X_nt
        shares = (one.X.flatten(0, 1).to(wide) @ E.to(wide).T) * B[:, other.ids.flatten()]
    else:
        shares = (B.to(wide) @ E.to(wide).T) * (one.ids.flatten()[:, None] == other.ids.flatten())
    return ops.summed(shares.view(k, one.positions, k, other.positions), (1, 3))


def _with(use: Product | Lookup, u: Tensor) -> Tensor:
    """<G_n, u> (k,), in float64."""
    if isinstance(use, Lookup):
        return ops.summed(use.B * u[use.ids], (1, 2))
    # Through the narrower side of G, so that nothing as large as a vocabulary's output gradients is
    # made.
    B, X, u = (use.B, use.X, u) if use.lines < u.shape[1] else (use.X, use.B, u.T)
    return ops.summed(B * (X @ u.T.to(X.dtype)), (1, 2))


def materialise(
    uses: Sequence[Rows], u: Tensor, exact: bool, keep: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """K (k, k) and b (k,) in float64, and with `keep` the rows (k, o i); u (o, i).

    Args:
        exact: multiply and add in float64 (`ops.inner_products`).
    """
    if len(uses) == 1 and isinstance(uses[0], Dense):
        rows = uses[0].G.reshape(uses[0].k, -1)
        return *ops.inner_products(rows, u.flatten(), exact), rows
    lines, width = u.shape
    if keep:
        rows = written_out(uses, lines, width).flatten(1)
        return *ops.inner_products(rows, u.flatten(), exact), rows
    shares = [
        ops.inner_products(rows, u[start : start + rows.shape[1] // width].flatten(), exact)
        for start, rows in _few_lines(uses, lines, width)
    ]
    grams, dots = zip(*shares)
    return sum(grams), sum(dots), None


def weighted_again(uses: Sequence[Rows], weights: Tensor, lines: int) -> Tensor:
    """sum_n w_n G_n (o i,) in float64, of the rows as `materialise` made them; weights (k,)."""
    width, used = uses[0].size // lines, slice(None)
    total = torch.zeros(
        lines, width, dtype=torch.float64, device=ops.home_of_doubles(uses[0].device)
    )
    if len(uses) == 1 and isinstance(uses[0], Lookup):
        compact, used = uses[0].compact()
        uses, lines, used = [compact], compact.lines, used.to(total.device)
    parts = [
        ops.weighted_sum(rows, weights, exact=True, dtype=torch.float64)
        for _, rows in _few_lines(uses, lines, width)
    ]
    total[used] = torch.cat(parts).view(lines, width)
    return total.flatten()


def _few_lines(uses: Sequence[Rows], lines: int, width: int) -> Iterator[tuple[int, Tensor]]:
    """The sum over uses of their G, a few lines at a time: where they start, and the rows (k, few
    lines * width).

    All have the same memory: fresh memory costs page faults.
    """
    k, device = uses[0].k, uses[0].device
    step = max(1, min(lines, limit(CHUNK, device) // (k * width)))
    buffer = torch.empty(k, step, width, dtype=value_type(uses), device=device)
    for start in range(0, lines, step):
        rows = buffer[:, : lines - start]
        write_all(uses, rows, start)
        yield start, rows.flatten(1)


def limit(values: dict[str, int], device: torch.device) -> int:
    return values.get(device.type, values["cpu"])
