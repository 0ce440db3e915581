"""Inner products of the per-sample weight gradients of a Linear layer, which never exist as a whole."""

import torch
from torch import Tensor

from .dispatch import inner_products

# Values of G that exist at a time on a CPU; on a GPU, as many as half of its L2 cache holds.
CPU_CHUNK = 2**18


def product_inner_products(
    B: Tensor, X: Tensor, u: Tensor | None = None, exact: bool = False
) -> tuple[Tensor, Tensor]:
    """K and b, as `inner_products` gives them, of the rows G_n = B_n^T X_n (o, i).

    Args:
        B: output gradients (k, T, o).
        X: inputs (k, T, i); taken in B's dtype.
        u: (o, i) in any floating dtype, None for zero.
        exact: as in `inner_products`; G itself is what torch.bmm makes in B's dtype.

    G is made by torch.bmm for so many lines at a time that it stays in the cache, and is reduced there at once: it
    does not go to memory. A kernel that kept one tile of all k G_n on one multiprocessor was considered instead. At
    k = 16 a float32 tile of 64 x 32 is what fits, for which B and X come from the L2 cache with 21 operations per byte
    of half precision, where torch.bmm's tiles of 128 x 128 have 64. So it would gain for small k T only, and below
    k T = o i / (o + i) the ghost form's products of k T x k T are cheaper than either.
    """
    k, _, o = B.shape
    X = X.to(B.dtype)
    lines = max(1, _chunk(B) // (k * X.shape[2]))
    shares = []
    for start in range(0, o, lines):
        G = torch.bmm(B[:, :, start : start + lines].transpose(1, 2), X).flatten(1)
        shares.append(inner_products(G, None if u is None else u[start : start + lines].flatten(), exact))
    grams, dots = zip(*shares)
    return sum(grams), sum(dots)


def _chunk(tensor: Tensor) -> int:
    if tensor.is_cuda:
        return torch.cuda.get_device_properties(tensor.device).L2_cache_size // (2 * tensor.element_size())
    return CPU_CHUNK
