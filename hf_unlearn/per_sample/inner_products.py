"""K = A A^T and b = A u of one parameter's rows, by the cheapest strategy that its uses allow.

A weight (o, i) that is used by k samples at T positions each has the rows G_n = B_n^T X_n. The
table lists the cost of each strategy, with the weighted sum of the rows that follows, in
multiply-adds of a matrix product. Gradient descent on the same batch costs k T o i for its plain
sum of the rows. D is the relative cost of float64 on cards that use it for inner products
(`ops.doubles_are_fast`), else 1.

    strategy             cost
    materialise          2 k T o i + k o i MEASURE
    materialise (kept)   k T o i + k o i (MEASURE + SUM)
    ghost                (2 k T o i + (k T)^2 (o + i)) D
    fused                (1 + TILE) k T o i + k^2 o i D

*materialise* writes out a few lines of the rows at a time and reduces them. If all rows are kept in
memory, the weighted sum needs no second product. So this is cheapest where memory allows it
(`KEPT_VALUES`) and T is not small.

*ghost* writes out no rows: K[n, m] = sum((X_n X_m^T) * (B_n B_m^T)) and b_n = sum(B_n * (X_n u^T))
(ghost clipping: Li et al., arXiv 2110.05679). It is for weights with many lines and few positions,
such as heads on pooled features and output layers over a vocabulary.

*fused* is a kernel that computes a tile of all rows on chip and reduces it there, for a single
product on cards with fast float64. It does not move the rows through memory, but its tiles are
small: at k = 16, its 64 x 32 tiles do 21 operations per byte of half precision that is read from
the cache, a twelfth of what tensor cores could do. So it is for few positions, too.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement
from typing import NamedTuple

import torch
from torch import Tensor

from .. import ops
from .rows import Convolved, Dense, Lookup, Product, Rows, Scaled, value_type, write_all

STRATEGIES = ("materialise", "ghost", "fused")


class Costs(NamedTuple):
    """Costs in multiply-adds of a matrix product that take the same time.

    measure: moving one value of G through memory for the inner products.
    sum: moving it through memory for the weighted sum.
    tile: one multiply-add of the fused kernel's product, for each block of `FUSED_BLOCK` samples.
    double: one multiply-add in float64.
    """

    measure: float
    sum: float
    tile: float
    double: float


# From times on one core at k = 8. In tests/benchmarks/bench_ways.py, 29 of 30 choices were within
# 1.3 times the best strategy.
CPU = Costs(50, 8, math.inf, 1)
# By bytes of a value, from the H100's data sheet (tensor cores for two bytes, none for four) and
# 5.5 TB/s of its L2 cache. Not yet confirmed by measurement.
CUDA = {2: Costs(500, 250, 8, 15), 4: Costs(80, 40, 1.5, 1)}
# SAMPLE_BLOCK of ops.triton_products, which cannot be imported without Triton.
FUSED_BLOCK = 16
# A parameter's rows are kept if G has at most this many values; above, memory matters more. On a
# CPU that includes 8 rows of the largest layers of ViT-B and ResNet-50.
KEPT_VALUES = {"cpu": 5 * 2**22, "cuda": 2**27}
# How many values of G are written out at a time where they are not kept. They are reduced at once,
# so that on a GPU they never leave its L2 cache.
BLOCK_VALUES = {"cpu": 2**21, "cuda": 2**23}


def choose(uses: Sequence[Rows], u: Tensor, strategy: str | None = None, keep: bool = True) -> str:
    """The strategy for the inner products of some rows with each other and with u (o, i).

    Args:
        keep: the rows may be kept for the weighted sum.
        strategy: one of `STRATEGIES`; falls back to "materialise" where it is unavailable. None:
            the cheapest.

    Raises:
        ValueError: there is no such strategy.
    """
    if strategy is not None and strategy not in STRATEGIES:
        raise ValueError(
            f"the strategy for inner products is {strategy!r}, but must be one of "
            f"{', '.join(STRATEGIES)}, or None"
        )
    if strategy == "materialise" or not all(isinstance(use, (Product, Lookup)) for use in uses):
        return "materialise"
    single = len(uses) == 1 and isinstance(uses[0], Product) and uses[0].dtype != torch.float64
    for candidate in (strategy,) if strategy else _cheapest_first(uses, u, keep):
        if candidate != "fused" or single and ops.fused_kernel_available(u.device):
            return candidate
    return "materialise"


def _cheapest_first(uses: Sequence[Product | Lookup], u: Tensor, keep: bool) -> list[str]:
    """The strategies, sorted by their costs (see the module's docstring); u (o, i)."""
    k, width = uses[0].k, u.shape[1]
    T = sum(use.positions for use in uses)
    T_products = sum(use.positions for use in uses if isinstance(use, Product))
    products = k * T_products * u.numel()
    # Of an embedding, only the lines that some sample looks up.
    lines = len(u) if products else min(len(u), k * T)
    values = k * lines * width
    cost = CUDA[min(4, value_type(uses).itemsize)] if u.is_cuda else CPU
    blocks = math.ceil(k / FUSED_BLOCK)
    double = cost.double if ops.doubles_are_fast(u.device) else 1
    kept = keep and are_kept(k, lines * width, u.device)
    costs = {
        "materialise": products + values * cost.measure + (values * cost.sum if kept else products),
        # For a product with a look-up (tied weights) and for two look-ups, only X X^T is a matrix
        # product.
        "ghost": double * (2 * products + (k * T_products) ** 2 * lines + (k * T) ** 2 * width),
        "fused": products * (1 + cost.tile * blocks) + values * k * double,
    }
    return sorted(STRATEGIES, key=costs.get)


def ghost(uses: Sequence[Product | Lookup], u: Tensor, exact: bool) -> tuple[Tensor, Tensor]:
    """K (k, k) and b (k,) in float64, without writing out any row; u (o, i).

    Args:
        exact: multiply and add in float64. Otherwise in the dtype of the uses; float16 uses are
            converted to float32, because a scaled u may overflow float16.
    """
    if exact:
        uses, u = [use.to(torch.float64) for use in uses], u.double()
    elif any(use.dtype == torch.float16 for use in uses):
        uses = [use.to(torch.float32) for use in uses]
    k, home = len(uses[0].B), ops.float64_device(u.device)
    K = torch.zeros(k, k, dtype=torch.float64, device=home)
    b = torch.zeros(k, dtype=torch.float64, device=home)
    for one, other in combinations_with_replacement(uses, 2):
        pairs = _pairs(one, other)
        K += pairs if one is other else pairs + pairs.T
    for use in uses:
        b += _with(use, u)
    return K, b


def _pairs(one: Product | Lookup, other: Product | Lookup) -> Tensor:
    """<G_n, G_m> (k, k) in float64, for rows G_n of one use and G_m of another."""
    if isinstance(one, Lookup) and isinstance(other, Product):
        return _pairs(other, one).T
    k, B, E = len(one.B), one.B.flatten(0, 1), other.B.flatten(0, 1)  # (k T, o or d)
    wide = torch.promote_types(torch.float32, torch.promote_types(B.dtype, E.dtype))
    if isinstance(other, Product):
        # (k T, i) @ (i, k S) and (k T, o) @ (o, k S)
        shares = (one.X.flatten(0, 1) @ other.X.flatten(0, 1).T).to(wide) * (B @ E.T)
    elif isinstance(one, Product):
        # Line ids_ms of G_n is sum_t B_nt[ids_ms] X_nt.
        shares = (one.X.flatten(0, 1).to(wide) @ E.to(wide).T) * B[:, other.ids.flatten()]
    else:
        same_line = one.ids.flatten()[:, None] == other.ids.flatten()  # (k T, k S)
        shares = (B.to(wide) @ E.to(wide).T) * same_line
    shares = shares.view(k, one.positions, k, other.positions)  # (k, T, k, S)
    return ops.sum_float64(shares, (1, 3))


def _with(use: Product | Lookup, u: Tensor) -> Tensor:
    """<G_n, u> (k,), in float64."""
    if isinstance(use, Lookup):
        return ops.sum_float64(use.B * u[use.ids], (1, 2))
    # Through the narrower side of G, so that no tensor as large as a vocabulary's output gradients
    # is written out.
    B, X, u = (use.B, use.X, u) if use.lines < u.shape[1] else (use.X, use.B, u.T)
    return ops.sum_float64(B * (X @ u.T.to(X.dtype)), (1, 2))


class Buffer:
    """Memory for the kept rows of one parameter after the other: on a CPU, fresh memory costs page
    faults, which can take longer than computing the rows."""

    def __init__(self) -> None:
        self._memory: Tensor | None = None

    def take(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        """A tensor of any values. On a CPU it overwrites the one before."""
        if device.type != "cpu":
            return torch.empty(shape, dtype=dtype, device=device)
        size, memory = math.prod(shape), self._memory
        if memory is None or memory.dtype != dtype or len(memory) < size:
            # Free the old memory first.
            self._memory = memory = None
            self._memory = memory = torch.empty(size, dtype=dtype)
        return memory[:size].view(shape)


def materialise(
    uses: Sequence[Rows], u: Tensor, exact: bool, keep: Buffer | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """K (k, k) and b (k,) in float64; u (o, i).

    Args:
        exact: multiply and add in float64 (`ops.inner_products`).
        keep: memory for the rows; None: they are not kept.

    Returns:
        K, b and the rows (k, o i); None in their place if they are not kept.
    """
    if len(uses) == 1 and isinstance(uses[0], Dense):
        rows = uses[0].G.reshape(uses[0].k, -1)  # (k, o i)
        return *ops.inner_products(rows, u.flatten(), exact), rows
    lines, width = u.shape
    if keep is not None:
        rows = keep.take((uses[0].k, lines, width), value_type(uses), uses[0].device)
        write_all(uses, rows, 0)
        rows = rows.flatten(1)  # (k, o i)
        return *ops.inner_products(rows, u.flatten(), exact), rows
    shares = [
        ops.inner_products(rows, u[start : start + rows.shape[1] // width].flatten(), exact)
        for start, rows in line_blocks(uses, lines, width)
    ]
    Ks, bs = zip(*shares)
    return sum(Ks), sum(bs), None


def exact_weighted_sum(uses: Sequence[Rows], weights: Tensor, lines: int) -> Tensor:
    """sum_n w_n G_n (o i,) in float64, of the rows as `materialise` computed them; weights (k,)."""
    width, home = uses[0].size // lines, ops.float64_device(uses[0].device)
    used: slice | Tensor = slice(None)
    total = torch.zeros(lines, width, dtype=torch.float64, device=home)
    if len(uses) == 1 and isinstance(uses[0], Lookup):
        compact, lines_used = uses[0].compact()
        uses, lines, used = [compact], compact.lines, lines_used.to(total.device)
    parts = [
        ops.weighted_sum(rows, weights, exact=True, dtype=torch.float64)
        for _, rows in line_blocks(uses, lines, width)
    ]
    total[used] = torch.cat(parts).view(lines, width)
    return total.flatten()


def line_blocks(uses: Sequence[Rows], lines: int, width: int) -> Iterator[tuple[int, Tensor]]:
    """G, summed over uses, a few lines at a time: the first line and the rows (k, few * width).

    Each block overwrites the one before, because fresh memory costs page faults.
    """
    k, device = uses[0].k, uses[0].device
    # A convolution is one call for each sample and block, so it gets few blocks.
    most = KEPT_VALUES if any(map(_has_convolution, uses)) else BLOCK_VALUES
    step = max(1, min(lines, limit(most, device) // (k * width)))
    buffer = torch.empty(k, step, width, dtype=value_type(uses), device=device)
    for start in range(0, lines, step):
        rows = buffer[:, : lines - start]
        write_all(uses, rows, start)
        yield start, rows.flatten(1)


def _has_convolution(use: Rows) -> bool:
    return isinstance(use, Convolved) or (
        isinstance(use, Scaled) and any(map(_has_convolution, use.uses))
    )


def are_kept(k: int, size: int, device: torch.device) -> bool:
    """Whether k rows of this size may be kept in memory."""
    return k * size <= limit(KEPT_VALUES, device)


def limit(values: dict[str, int], device: torch.device) -> int:
    """The entry for a kind of device; that of the CPU for all others."""
    return values.get(device.type, values["cpu"])
