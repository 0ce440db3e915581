"""Rows of A that belong to no sample: fixed directions that follow the samples' own rows."""

import torch
from torch import Tensor

from .. import ops
from .parameter_rows import ParameterRows


class AddedRows:
    """The k rows of one parameter, and after them q rows S that are given as they are.

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
        return total + ops.moved(added, total.dtype, total.device).reshape(total.shape)
