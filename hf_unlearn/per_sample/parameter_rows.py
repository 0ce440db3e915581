"""The rows of A that belong to one parameter: their inner products and their weighted sum."""

import torch
from torch import Tensor, nn

from .. import ops
from . import inner_products
from .rows import Convolved, Dense, Lookup, Patches, Product, Rows, Scaled, written_out

# A look-up adds to existing values in place. So it comes after the uses that compute new values,
# and before those whose values must not be overwritten.
ORDER = (Product, Patches, Convolved, Lookup, Dense, Scaled)


class ParameterRows:
    """The k rows of A that belong to one parameter, summed over its uses.

    They need not exist in memory.

    Args:
        uses: the rows of each use.
        strategy: how inner products are computed, one of `inner_products.STRATEGIES`; None: the
            cheapest.
        buffer: memory for rows that are kept. Several parameters can share it if `drop_kept` is
            called before the next one needs it.
    """

    def __init__(
        self,
        parameter: nn.Parameter,
        uses: list[Rows],
        strategy: str | None = None,
        buffer: inner_products.Buffer | None = None,
    ):
        self.parameter, self.strategy = parameter, strategy
        self._buffer = inner_products.Buffer() if buffer is None else buffer
        self.uses = sorted(uses, key=lambda use: ORDER.index(type(use)))
        self._kept: Tensor | None = None

    @property
    def k(self) -> int:
        """The number of samples."""
        return self.uses[0].k

    @property
    def _lines(self) -> int:
        return self.parameter.shape[0] if self.parameter.ndim else 1

    def written_out(self) -> Tensor:
        """The rows as a tensor (k, lines of the parameter, values of a line)."""
        return written_out(self.uses, self._lines, self.parameter.numel() // self._lines)

    def scaled(self, scale: Tensor) -> "ParameterRows":
        """The rows G_n * scale.

        Args:
            scale: a factor for each value, in the parameter's shape.
        """
        uses = [Scaled(self.uses, scale.reshape(self._lines, -1))]
        return ParameterRows(self.parameter, uses, "materialise")

    def products(
        self, u: Tensor | None, exact: bool = False, keep: bool = True
    ) -> tuple[Tensor, Tensor]:
        """K = A A^T (k, k) and b = A u (k,) in float64.

        Memory does not grow with the parameter beyond `inner_products.KEPT_VALUES`.

        Args:
            u: in the parameter's shape; None: zero.
            exact: multiply and add in float64. Otherwise the error is about 1e-7 |g_n| |g_m| for
                float32 rows, which is small enough for well-conditioned rows (see
                `ops.projection.Solution.pivot`).
            keep: the rows will soon be needed again, and may be kept in memory if they are small.
        """
        p, uses = self.parameter, self.uses
        u = torch.zeros_like(p) if u is None else u.detach()
        u = u.reshape(self._lines, -1)  # (lines, values of a line)
        if self._kept is not None:
            return ops.inner_products(self._kept, u.flatten(), exact)
        strategy = inner_products.choose(uses, u, self.strategy, keep)
        if strategy == "fused" and isinstance(uses[0], Product):
            return ops.product_inner_products(uses[0].B, uses[0].X, u)
        if strategy == "ghost" and (not exact or ops.doubles_are_fast(p.device)):
            return inner_products.ghost(uses, u, exact)
        keep = keep and inner_products.are_kept(self.k, p.numel(), p.device)
        # Most lines of an embedding are looked up by no sample.
        if len(uses) == 1 and isinstance(uses[0], Lookup):
            compact, used = uses[0].compact()
            uses, u, keep = [compact], u[used], False
        buffer = self._buffer if keep else None
        K, b, self._kept = inner_products.materialise(uses, u, exact, buffer)
        return K, b

    def drop_kept(self) -> None:
        """Frees the memory of rows that `products` has kept; they are computed again if needed."""
        self._kept = None

    def weighted(self, weights: Tensor, exact: bool = False) -> Tensor:
        """sum_n w_n G_n in the parameter's shape and dtype; weights (k,).

        Args:
            exact: add in float64, using the same rows as `products(exact=True)`. This is for
                weights so large that the rounding of each w_n G_n would matter.
        """
        p = self.parameter
        if self._kept is not None:
            total = ops.weighted_sum(self._kept, weights, dtype=p.dtype, exact=exact)
        elif exact:
            total = inner_products.exact_weighted_sum(self.uses, weights, self._lines)
        else:
            weights = ops.move_to(weights, torch.promote_types(p.dtype, torch.float32), p.device)
            total = None
            for use in self.uses:
                total = use.weighted(weights, total)
        return ops.move_to(total, p.dtype, p.device).reshape(p.shape)


class AddedRows:
    """The k rows of one parameter, and after them q rows S that belong to no sample: directions
    that are given as they are.

    Each added row costs one more measurement of the samples' rows, unless these are kept in memory.

    Args:
        rows: the samples' rows.
        S: the added rows (q, *shape of the parameter).
    """

    def __init__(self, rows: ParameterRows, S: Tensor):
        self.rows, self.S, self.parameter = rows, S, rows.parameter

    @property
    def k(self) -> int:
        """The number of rows, k + q."""
        return self.rows.k + len(self.S)

    @property
    def _flat(self) -> Tensor:
        """S (q, values of the parameter)."""
        return self.S.reshape(len(self.S), -1)

    def scaled(self, scale: Tensor) -> "AddedRows":
        """As in `ParameterRows`."""
        return AddedRows(self.rows.scaled(scale), self.S * scale)

    def products(
        self, u: Tensor | None, exact: bool = False, keep: bool = True
    ) -> tuple[Tensor, Tensor]:
        """K = A A^T (k + q, k + q) and b = A u (k + q,) in float64, as in `ParameterRows`."""
        u = torch.zeros_like(self.parameter) if u is None else u.detach()
        K, b = self.rows.products(u, exact, keep)
        # (k, q)
        C = torch.stack([self.rows.products(s, exact, keep)[1] for s in self.S], 1)
        K_S, b_S = ops.inner_products(self._flat, u.flatten(), exact)
        K = torch.cat([torch.cat([K, C], 1), torch.cat([C.T, K_S], 1)])
        return K, torch.cat([b, b_S])

    def weighted(self, weights: Tensor, exact: bool = False) -> Tensor:
        """As in `ParameterRows`; weights (k + q,)."""
        k = self.rows.k
        total = self.rows.weighted(weights[:k], exact)
        added = ops.weighted_sum(self._flat, weights[k:], dtype=total.dtype, exact=exact)
        return total + ops.move_to(added, total.dtype, total.device).reshape(total.shape)
