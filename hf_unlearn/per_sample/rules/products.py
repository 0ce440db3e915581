"""Rules for matrix products: linear layers, einsum, and the experts of mixtures."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from ..rows import Dense, Product
from .common import RowsByArgument, Unsupported, by_sample, own_values, positions, sum_to


def linear(
    k: int, B: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None
) -> RowsByArgument:
    return {
        "weight": lambda: Product(positions(B, k), positions(input, k)),
        "bias": lambda: Dense(positions(B, k).sum(1)),
    }


def matmul(k: int, B: Tensor, input: Tensor, other: Tensor) -> RowsByArgument:
    if other.ndim != 2 or input.ndim < 2:
        raise Unsupported("a batch of weight matrices")
    # out = X W: G_n = X_n^T B_n
    return {"other": lambda: Product(positions(input, k), positions(B, k))}


def addmm(
    k: int,
    B: Tensor,
    input: Tensor,
    mat1: Tensor,
    mat2: Tensor,
    *,
    beta: float = 1,
    alpha: float = 1,
) -> RowsByArgument:
    return {
        "input": lambda: sum_to(beta * B, input.shape, k),
        "mat2": lambda: Product(positions(mat1, k), positions(alpha * B, k)),
    }


def einsum(k: int, B: Tensor, equation: str, *operands: Tensor) -> RowsByArgument:
    """G_n for each of two operands, of which the other holds samples along its first letter."""
    operands = operands[0] if isinstance(operands[0], (list, tuple)) else operands
    inputs, output = spelled_out(equation, operands)
    if len(operands) != 2:
        raise Unsupported("an einsum of more than two operands")

    def rows(at: int) -> Product | Dense:
        weight, x = inputs[at], inputs[1 - at]
        repeated = len(set(x)) < len(x) or len(set(weight)) < len(weight)
        if output[:1] != x[0] or repeated:
            raise Unsupported("an einsum in which the samples do not come first")
        X = operands[1 - at].to(B.dtype)
        if x[0] in weight:
            G = torch.einsum(f"{x},{output}->{weight}", X, B)
            return own_values(G, k, weight.index(x[0]))
        product = _einsum_as_product(k, X, B, x, weight, output)
        if product is not None:
            return product
        shape = operands[at].shape
        letters = "".join(c for c in weight if c in x or c in output)
        G = torch.einsum(f"{x},{output}->{x[0]}{letters}", X, B)
        # The gradient does not depend on letters that occur in the weight alone.
        sizes = [size if c in letters else 1 for c, size in zip(weight, shape)]
        G = by_sample(G, k).sum(1).reshape(k, *sizes)  # (k, *sizes)
        return Dense(G.expand(k, *shape))

    return {("operands", at): partial(rows, at) for at in range(2)}


def _einsum_as_product(
    k: int, X: Tensor, B: Tensor, x: str, weight: str, output: str
) -> Product | None:
    """G_n as a matrix product, if the einsum is one.

    Args:
        X: the operand that holds samples; x: its letters, of which the first is the sample axis.
        B: gradient of the output; output: its letters.
        weight: the letters of the other operand.
    """
    sample = x[0]
    summed = "".join(c for c in weight if c not in output)
    kept = "".join(c for c in weight if c not in x)
    rest = "".join(c for c in x[1:] if c not in weight)
    if not set(rest) <= set(output) or weight not in (summed + kept, kept + summed):
        return None
    # (k * s, *rest, summed letters together), and the same with kept letters
    X = torch.einsum(f"{x}->{sample}{rest}{summed}", X).flatten(1 + len(rest))
    G = torch.einsum(f"{output}->{sample}{rest}{kept}", B).flatten(1 + len(rest))
    X, G = positions(X, k), positions(G, k)  # (k, T, summed), (k, T, kept)
    return Product(X, G) if weight[0] in summed else Product(G, X)


def spelled_out(equation: str, operands: Sequence[Tensor]) -> tuple[list[str], str]:
    """The letters of each operand and of the output, with letters in place of an ellipsis."""
    if not isinstance(equation, str):
        raise Unsupported("an einsum with sublists")
    terms, arrow, output = equation.replace(" ", "").partition("->")
    inputs = terms.split(",")
    if not arrow:
        letters = "".join(inputs)
        output = "".join(sorted(c for c in set(letters) - {"."} if letters.count(c) == 1))
        output = "..." * ("..." in equation) + output
    spare = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in equation]
    widths = [x.ndim - len(term.replace("...", "")) for term, x in zip(inputs, operands)]
    widest = max([w for w, term in zip(widths, inputs) if "..." in term], default=0)
    named = "".join(spare[:widest])
    inputs = [
        term.replace("...", named[widest - width :] if width else "")
        for term, width in zip(inputs, widths)
    ]
    return inputs, output.replace("...", named)


def experts_mm(input: Tensor, weight: Tensor, experts: Tensor) -> Tensor:
    """Each line times the matrix of its expert.

    input (N, i), weight (E, i, o), experts (N,) -> (N, o).
    """
    return torch.bmm(input[:, None], weight[experts])[:, 0]


def experts_rule(
    k: int, B: Tensor, input: Tensor, weight: Tensor, experts: Tensor
) -> RowsByArgument:
    """G_n[e] = X^T B over the lines of sample n that expert e computes."""

    def rows() -> Dense:
        # (k, T, i), (k, T, o), (k, T)
        X, G, ids = positions(input[:, None], k), positions(B[:, None], k), by_sample(experts, k)
        total = B.new_zeros(k, *weight.shape)  # (k, E, i, o)
        for expert in ids.unique().tolist():
            mine = ids == expert
            size = int(mine.sum(1).max())
            # For each sample, the indices of this expert's lines, then others up to the same size.
            order = mine.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
            indices = order[:, :size, None]  # (k, size, 1)
            valid = torch.gather(mine, 1, indices[:, :, 0])[:, :, None]  # (k, size, 1)
            X_e = X.gather(1, indices.expand(-1, -1, X.shape[-1])).to(B.dtype)  # (k, size, i)
            B_e = G.gather(1, indices.expand(-1, -1, G.shape[-1])) * valid  # (k, size, o)
            total[:, expert] = X_e.mT @ B_e
        return Dense(total)

    return {"weight": rows}


RULES: dict[str, Callable] = {
    "linear": linear,
    "matmul": matmul,
    "__matmul__": matmul,
    "mm": matmul,
    "addmm": addmm,
    "einsum": einsum,
    "experts_mm": experts_rule,
}
