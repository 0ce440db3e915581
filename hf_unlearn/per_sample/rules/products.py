"""Rules for products of matrices: linear layers, einsum, batches of products, the experts of
mixtures."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ..rows import Dense, Product
from .common import Unsupported, by_sample, own_values, positions, sum_to


def linear(k, B, input, weight, bias=None):
    return {
        "weight": lambda: Product(positions(B, k), positions(input, k)),
        "bias": lambda: Dense(positions(B, k).sum(1)),
    }


def matmul(k, B, input, other):
    if other.ndim != 2 or input.ndim < 2:
        raise Unsupported("a batch of weight matrices")
    # out = X W: G_n = X_n^T B_n
    return {"other": lambda: Product(positions(input, k), positions(B, k))}


def addmm(k, B, input, mat1, mat2, *, beta=1, alpha=1):
    return {
        "input": lambda: sum_to(beta * B, input.shape, k),
        "mat2": lambda: Product(positions(mat1, k), positions(alpha * B, k)),
    }


def einsum(k, B, equation, *operands):
    """G_n for each operand of a sum over products, of which one holds samples along its first
    letter."""
    operands = operands[0] if isinstance(operands[0], (list, tuple)) else operands
    inputs, output = spelled_out(equation, operands)
    if len(operands) != 2:
        raise Unsupported("an einsum of more than two operands")

    def rows(at: int):
        weight, x = inputs[at], inputs[1 - at]
        sample = x[0]
        if output[:1] != sample or len(set(x)) < len(x) or len(set(weight)) < len(weight):
            raise Unsupported("an einsum in which the samples do not come first")
        if sample in weight:
            return own_values(
                torch.einsum(f"{x},{output}->{weight}", operands[1 - at].to(B.dtype), B),
                k,
                weight.index(sample),
            )
        ours = [letter for letter in weight if letter not in output]
        theirs = [letter for letter in weight if letter not in x]
        X, G = operands[1 - at].to(B.dtype), B
        rest = [letter for letter in x[1:] if letter not in weight]
        if set(rest) <= set(output) and weight in ("".join(ours + theirs), "".join(theirs + ours)):
            X = positions(
                torch.einsum(f"{x}->{sample}{''.join(rest)}{''.join(ours)}", X).flatten(
                    1 + len(rest)
                ),
                k,
            )
            G = torch.einsum(f"{output}->{sample}{''.join(rest)}{''.join(theirs)}", G).flatten(
                1 + len(rest)
            )
            return Product(X, positions(G, k)) if weight[0] in ours else Product(positions(G, k), X)
        alone = f"{x},{output}->{sample}{''.join(c for c in weight if c in x or c in output)}"
        G = torch.einsum(alone, X, G)
        shape = [
            size if c in x or c in output else 1 for c, size in zip(weight, operands[at].shape)
        ]
        return Dense(by_sample(G, k).sum(1).reshape(k, *shape).expand(k, *operands[at].shape))

    return {("operands", at): (lambda at=at: rows(at)) for at in range(2)}


def spelled_out(equation, operands) -> tuple[list[str], str]:
    """The letters of each operand and of the output, with those that an ellipsis stands for."""
    if not isinstance(equation, str):
        raise Unsupported("an einsum with sublists")
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    inputs = inputs.split(",")
    if not arrow:
        letters = "".join(inputs)
        output = "".join(sorted(c for c in set(letters) - {"."} if letters.count(c) == 1))
        output = "..." * ("..." in equation) + output
    spare = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in equation]
    widths = [x.ndim - len(term.replace("...", "")) for term, x in zip(inputs, operands)]
    most = max([w for w, term in zip(widths, inputs) if "..." in term], default=0)
    named = "".join(spare[:most])
    inputs = [
        term.replace("...", named[most - width :] if width else "")
        for term, width in zip(inputs, widths)
    ]
    return inputs, output.replace("...", named)


def leading_equation(call, values) -> str:
    """The equation of a recorded einsum whose sample axes were moved to the front."""
    operands = [values.get(key, call.arguments[key]) for key in call.arguments if key != 0]
    if not all(isinstance(x, Tensor) for x in operands):
        raise Unsupported("an einsum that takes a list")
    inputs, output = spelled_out(call.arguments[0], operands)

    def moved(letters, axis):
        return letters[axis] + letters[:axis] + letters[axis + 1 :]

    for key, layout in call.samples.items():
        inputs[key - 1] = moved(inputs[key - 1], layout.axis)
    return ",".join(inputs) + "->" + moved(output, call.output.axis)


def bmm(k, B, input, mat2):
    """Several matrices of weights E, each met by the same samples: input (E, k * s, i), mat2 (E, i,
    o), or the reverse.

    With samples along the leading axis there is no weight among the factors.
    """
    raise Unsupported("a batch of weight matrices")


def experts_mm(input: Tensor, weight: Tensor, experts: Tensor) -> Tensor:
    """input (N, i), weight (E, i, o), experts (N,): each line times the matrix of its expert, (N,
    o)."""
    return torch.bmm(input[:, None], weight[experts])[:, 0]


def experts_rule(k, B, input, weight, experts):
    def rows():
        X, G, ids = positions(input[:, None], k), positions(B[:, None], k), by_sample(experts, k)
        total = B.new_zeros(k, *weight.shape)
        for expert in ids.unique().tolist():
            mine = ids == expert
            size = int(mine.sum(1).max())
            at = mine.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :size, None]
            held = torch.gather(mine, 1, at[:, :, 0])[:, :, None]
            left = X.gather(1, at.expand(-1, -1, X.shape[-1])).to(B.dtype)
            total[:, expert] = left.mT @ (G.gather(1, at.expand(-1, -1, G.shape[-1])) * held)
        return Dense(total)

    return {"weight": rows}


def as_experts_mm(call, values):
    """A product of lines sorted by expert as `experts_mm`, which says of each line whose it is."""
    positional, keywords = call.filled(values)
    offsets = keywords.get("offs", positional[2] if len(positional) > 2 else None)
    if offsets is None or list(call.tracked) != [1] or 0 not in call.samples:
        return call, values
    lines = torch.arange(len(values[0]), device=offsets.device, dtype=offsets.dtype)
    experts = torch.searchsorted(offsets, lines, right=True).clamp(max=len(offsets) - 1)
    values = {0: values[0], 1: values[1], 2: experts}
    samples = {0: call.samples[0], 2: call.samples[0]}
    return replace(call, function=experts_mm, arguments=values, samples=samples), values


RULES: dict[str, Callable] = {
    "linear": linear,
    "matmul": matmul,
    "__matmul__": matmul,
    "mm": matmul,
    "addmm": addmm,
    "einsum": einsum,
    "experts_mm": experts_rule,
}
