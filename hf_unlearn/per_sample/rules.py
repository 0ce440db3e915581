"""Per-sample weight gradients, one rule for each function of torch that a parameter can meet the samples in.

A rule has the signature of its function with k and the output's gradient B put in front, and returns, for each
argument that may be a weight, a function that makes the `Rows` of its per-sample gradients G_n (called only for what
trains). Samples lie along the leading axis, alone or with other axes folded into it (Swin's windows); where they do not
(`layout.py`), the tensors are brought into that form first. k is the number of samples, T all positions between the
sample axis and the channels.
"""

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .rows import Dense, Lookup, Product


class Unsupported(Exception):
    """The samples' shares in the gradient of `parameters` cannot be told apart here; the slow, exact path can."""

    def __init__(self, reason: str, parameters: tuple[nn.Parameter, ...] = ()):
        super().__init__(reason)
        self.parameters = parameters


def by_sample(x: Tensor, k: int) -> Tensor:
    """(k * s, ...) -> (k, s, ...)."""
    if x.ndim == 0 or len(x) % k:
        raise Unsupported(f"a tensor of shape {tuple(x.shape)} does not divide over {k} samples")
    return x.reshape(k, len(x) // k, *x.shape[1:])


def positions(x: Tensor, k: int) -> Tensor:
    """(k * s, ..., c) -> (k, T, c)."""
    return by_sample(x, k).flatten(1, -2)


def sum_to(x: Tensor, shape: torch.Size, k: int) -> Dense:
    """Undoes broadcasting for each sample: x (k * s, ...) is the gradient of a tensor used elementwise."""
    padded = (1,) * (x.ndim - len(shape)) + tuple(shape)
    if len(padded) > x.ndim:
        raise Unsupported(f"a parameter of shape {tuple(shape)} has more axes than the samples")
    axes = [1] + [axis + 1 for axis in range(1, x.ndim) if padded[axis] == 1]
    if padded[0] == 1:
        return Dense(by_sample(x, k).sum(axes, dtype=x.dtype).reshape(k, *shape))
    if padded[0] != len(x):
        raise Unsupported(f"a parameter of shape {tuple(shape)} has values of its own along the sample axis")
    x = x.sum([axis - 1 for axis in axes[1:]], keepdim=True) if axes[1:] else x
    return own_values(x.reshape(shape), k, 0)


def own_values(G: Tensor, k: int, axis: int) -> Dense:
    """The gradient of a tensor with values of its own for each sample (made by an expansion that nobody noticed)."""
    owners = torch.arange(G.shape[axis], device=G.device) // (G.shape[axis] // k)
    mine = (owners == torch.arange(k, device=G.device)[:, None]).to(G.dtype)
    return Dense(G * mine.reshape(k, *[1] * axis, -1, *[1] * (G.ndim - 1 - axis)))


# ---- products -------------------------------------------------------------------------------------------------------


def linear(k, B, input, weight, bias=None):
    return {
        "weight": lambda: Product(positions(B, k), positions(input, k)),
        "bias": lambda: Dense(positions(B, k).sum(1)),
    }


def matmul(k, B, input, other):
    if other.ndim != 2 or input.ndim < 2:
        raise Unsupported("a batch of weight matrices")
    return {"other": lambda: Product(positions(input, k), positions(B, k))}  # out = X W: G_n = X_n^T B_n


def addmm(k, B, input, mat1, mat2, *, beta=1, alpha=1):
    return {
        "input": lambda: sum_to(beta * B, input.shape, k),
        "mat2": lambda: Product(positions(mat1, k), positions(alpha * B, k)),
    }


def einsum(k, B, equation, *operands):
    """G_n for each operand of a sum over products, of which one holds samples along its first letter."""
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
                torch.einsum(f"{x},{output}->{weight}", operands[1 - at].to(B.dtype), B), k, weight.index(sample)
            )
        ours = [letter for letter in weight if letter not in output]
        theirs = [letter for letter in weight if letter not in x]
        X, G = operands[1 - at].to(B.dtype), B
        rest = [letter for letter in x[1:] if letter not in weight]
        if set(rest) <= set(output) and weight in ("".join(ours + theirs), "".join(theirs + ours)):
            X = positions(torch.einsum(f"{x}->{sample}{''.join(rest)}{''.join(ours)}", X).flatten(1 + len(rest)), k)
            G = torch.einsum(f"{output}->{sample}{''.join(rest)}{''.join(theirs)}", G).flatten(1 + len(rest))
            return Product(X, positions(G, k)) if weight[0] in ours else Product(positions(G, k), X)
        alone = f"{x},{output}->{sample}{''.join(c for c in weight if c in x or c in output)}"
        G = torch.einsum(alone, X, G)
        shape = [size if c in x or c in output else 1 for c, size in zip(weight, operands[at].shape)]
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
    inputs = [term.replace("...", named[most - width :] if width else "") for term, width in zip(inputs, widths)]
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
    """Several matrices of weights E, each met by the same samples: input (E, k * s, i), mat2 (E, i, o), or the reverse.

    With samples along the leading axis there is no weight among the factors.
    """
    raise Unsupported("a batch of weight matrices")


def experts_mm(input: Tensor, weight: Tensor, experts: Tensor) -> Tensor:
    """input (N, i), weight (E, i, o), experts (N,): each line times the matrix of its expert, (N, o)."""
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


# ---- look-ups -------------------------------------------------------------------------------------------------------


def embedding(
    k, B, input, weight, padding_idx=None, max_norm=None, norm_type=2.0, scale_grad_by_freq=False, sparse=False
):
    if max_norm is not None or scale_grad_by_freq or sparse:
        raise Unsupported("an embedding with max_norm, scale_grad_by_freq or sparse gradients")
    ids = by_sample(input, k).reshape(k, -1)
    B = B.reshape(*B.shape[: input.ndim], -1)
    B = by_sample(B, k).reshape(k, -1, B.shape[-1])
    if padding_idx is not None:  # this line receives no gradient
        B = B.masked_fill((ids == padding_idx % len(weight))[:, :, None], 0)
    return {"weight": lambda: Lookup(B, ids, len(weight))}


def getitem(k, B, input, index):
    if not isinstance(index, Tensor) or index.is_floating_point() or index.dtype == torch.bool or input.ndim < 2:
        raise Unsupported("an index that is not a tensor of line numbers")
    rows = embedding(k, B, torch.where(index < 0, index + len(input), index), input)
    return {"input": rows["weight"]}


# ---- normalisation --------------------------------------------------------------------------------------------------


def layer_norm(k, B, input, normalized_shape, weight=None, bias=None, eps=1e-5):
    return {
        "weight": lambda: sum_to(B * F.layer_norm(input.to(B.dtype), normalized_shape, eps=eps), weight.shape, k),
        "bias": lambda: sum_to(B, bias.shape, k),
    }


def rms_norm(k, B, input, normalized_shape, weight=None, eps=None):
    return {"weight": lambda: sum_to(B * F.rms_norm(input.to(B.dtype), normalized_shape, eps=eps), weight.shape, k)}


def _channels(x: Tensor, k: int) -> Dense:
    """(k * s, c, ...) -> rows (k, c)."""
    return Dense(by_sample(x, k).flatten(3).sum((1, 3)) if x.ndim > 2 else by_sample(x, k).sum(1))


def batch_norm(k, B, input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    if training:
        raise Unsupported("batch statistics mix the samples")
    return {
        "weight": lambda: _channels(B * F.batch_norm(input.to(B.dtype), running_mean, running_var, eps=eps), k),
        "bias": lambda: _channels(B, k),
    }


def group_norm(k, B, input, num_groups, weight=None, bias=None, eps=1e-5):
    return {
        "weight": lambda: _channels(B * F.group_norm(input.to(B.dtype), num_groups, eps=eps), k),
        "bias": lambda: _channels(B, k),
    }


def instance_norm(
    k,
    B,
    input,
    running_mean=None,
    running_var=None,
    weight=None,
    bias=None,
    use_input_stats=True,
    momentum=0.1,
    eps=1e-5,
):
    def normalised():
        return F.instance_norm(input.to(B.dtype), running_mean, running_var, None, None, use_input_stats, 0.0, eps)

    return {"weight": lambda: _channels(B * normalised(), k), "bias": lambda: _channels(B, k)}


# ---- convolutions ---------------------------------------------------------------------------------------------------


def _patches(x: Tensor, kernel, stride, padding, dilation) -> Tensor:
    """What the kernel meets at each of its places: x (N, c, *size) -> (N, T, c * kernel)."""
    dims = x.ndim - 2
    stride, dilation = (_each(value, dims) for value in (stride, dilation))
    if padding == "same":
        total = [d * (size - 1) for size, d in zip(kernel, dilation)]
        sides = [(t // 2, t - t // 2) for t in total]
    else:
        sides = [(p, p) for p in ([0] * dims if padding == "valid" else _each(padding, dims))]
    if dims == 2 and all(left == right for left, right in sides):
        return F.unfold(x, kernel, dilation, tuple(left for left, _ in sides), stride).mT
    x = F.pad(x, [p for side in reversed(sides) for p in side])
    for axis, (size, s, d) in enumerate(zip(kernel, stride, dilation)):
        x = x.unfold(2 + axis, d * (size - 1) + 1, s)[..., ::d]  # (N, c, *places, *kernel)
    x = x.flatten(2, 1 + dims) if dims > 1 else x
    return x.movedim(2, 1).flatten(2)


def _each(value, dims: int) -> tuple[int, ...]:
    value = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return value * dims if len(value) == 1 else value


def _grouped(G: Tensor, X: Tensor, groups: int, k: int) -> Product | Dense:
    """Rows of a weight (o, i) from G (k s, T, o) and X (k s, T, i), each line of a group meeting its own inputs."""
    if groups == 1:
        return Product(positions(G, k), positions(X, k))
    G, X = G.unflatten(2, (groups, -1)), X.unflatten(2, (groups, -1))
    return Dense(by_sample(torch.einsum("ntgo,ntgi->ngoi", G, X.to(G.dtype)), k).sum(1).flatten(1, 2))


def _convolution(dims: int):
    def rule(k, B, input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
        if input.ndim != dims + 2:
            raise Unsupported("a convolution without a sample axis")

        def of_weight():
            x, kernel = input.to(B.dtype), weight.shape[2:]
            if dims == 1 and not isinstance(padding, str):  # as an image of one line
                one = (_each(stride, 1), _each(padding, 1), _each(dilation, 1))
                X = _patches(x[:, :, None], (1, *kernel), (1, *one[0]), (0, *one[1]), (1, *one[2]))
            else:
                X = _patches(x, kernel, stride, padding, dilation)
            return _grouped(B.flatten(2).mT, X, groups, k)

        return {"weight": of_weight, "bias": lambda: _channels(B, k)}

    return rule


def conv_transpose(k, B, input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    def of_weight():
        X = input.flatten(2).mT  # (k s, T, i): the roles of input and output are exchanged
        G = _patches(B, weight.shape[2:], stride, padding, dilation)[:, : X.shape[1]]
        return _grouped(X.to(B.dtype), G, groups, k)

    if any(_each(output_padding, input.ndim - 2)) and input.ndim > 3:
        raise Unsupported("a transposed convolution with output padding")
    return {"weight": of_weight, "bias": lambda: _channels(B, k)}


# ---- elementwise ----------------------------------------------------------------------------------------------------


def add(k, B, input, other, *, alpha=1):
    return {"input": lambda: sum_to(B, input.shape, k), "other": lambda: sum_to(alpha * B, other.shape, k)}


def sub(k, B, input, other, *, alpha=1):
    return {"input": lambda: sum_to(B, input.shape, k), "other": lambda: sum_to(-alpha * B, other.shape, k)}


def rsub(k, B, input, other, *, alpha=1):
    return sub(k, -B, input, other, alpha=alpha)


def mul(k, B, input, other):
    return {
        "input": lambda: sum_to(B * other, input.shape, k),
        "other": lambda: sum_to(B * input, other.shape, k),
    }


def div(k, B, input, other, *, rounding_mode=None):
    if rounding_mode is not None:
        raise Unsupported("a division that rounds")
    return {
        "input": lambda: sum_to(B / other, input.shape, k),
        "other": lambda: sum_to(-B * input / other**2, other.shape, k),
    }


def prelu(k, B, input, weight):
    G = B * input.clamp_max(0)
    return {"weight": lambda: _channels(G, k) if weight.numel() > 1 else sum_to(G, weight.shape, k)}


def where(k, B, condition, input, other):
    zero = B.new_zeros(())
    return {
        "input": lambda: sum_to(torch.where(condition, B, zero), input.shape, k),
        "other": lambda: sum_to(torch.where(condition, zero, B), other.shape, k),
    }


def masked_fill(k, B, input, mask, value):
    return {"input": where(k, B, mask, value, input)["other"], "value": where(k, B, mask, value, input)["input"]}


def assigned(input: Tensor, index, value) -> Tensor:
    """`input[index] = value` on a copy."""
    output = input.clone()
    output[index] = value
    return output


def copied(input: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    """`input.copy_(source)` on a copy."""
    return source.expand_as(input).to(input.dtype)


def copy(k, B, input, source, non_blocking=False):
    return {"source": lambda: sum_to(B, source.shape, k)}


def assign(k, B, input, index, value):
    """A parameter written into samples: at places that a mask names, or at the same place in each."""

    def of_value():
        parts = index if isinstance(index, tuple) else (index,)
        if isinstance(parts[0], slice) and parts[0] == slice(None) and not any(isinstance(p, Tensor) for p in parts):
            return sum_to(B[index], value.shape, k)
        tensors = [p for p in parts if isinstance(p, Tensor)]
        if value.ndim > B.ndim - sum(p.ndim if p.dtype == torch.bool else 1 for p in tensors):
            raise Unsupported("an assignment of different values to different samples")
        written = torch.zeros_like(B)
        written[index] = B[index]
        return sum_to(written, value.shape, k)

    return {"value": of_value}


def expand(k, B, input, *sizes):
    """A parameter that is repeated for each sample (cls_token): G_n is the n-th slice of B."""
    return {"input": lambda: sum_to(B, input.shape, k)}


def repeat(k, B, input, *sizes):
    sizes = sizes[0] if isinstance(sizes[0], (tuple, list)) else sizes
    if any(size != 1 for size in sizes[1:]):
        raise Unsupported("a repetition along more axes than the samples")
    return expand(k, B, input)


def cat(k, B, tensors, dim=0):
    dim = dim % B.ndim
    if dim == 0:
        raise Unsupported("a parameter put beside the samples as if it were one")
    parts = B.split([x.shape[dim] if x.ndim > 1 else 0 for x in tensors], dim)
    return {("tensors", at): (lambda at=at: sum_to(parts[at], tensors[at].shape, k)) for at in range(len(tensors))}


def stack(k, B, tensors, dim=0):
    dim = dim % B.ndim
    if dim == 0:
        raise Unsupported("a parameter put beside the samples as if it were one")
    return {
        ("tensors", at): (lambda at=at: sum_to(B.select(dim, at), tensors[at].shape, k)) for at in range(len(tensors))
    }


# ---- attention ------------------------------------------------------------------------------------------------------


def attention(k, B, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    """The scores' additive bias, as that of relative positions: out = P V, P = softmax(scale Q K^T + bias)."""

    def of_bias():
        if dropout_p:
            raise Unsupported("attention with dropout")
        Q, K, V = (x.to(B.dtype) for x in (query, key, value))
        if enable_gqa:
            K, V = (x.repeat_interleave(Q.shape[-3] // x.shape[-3], -3) for x in (K, V))
        P = (Q @ K.mT * (Q.shape[-1] ** -0.5 if scale is None else scale) + attn_mask).softmax(-1)
        G = P * (B @ V.mT)
        return sum_to(G - P * G.sum(-1, keepdim=True), attn_mask.shape, k)

    return {"attn_mask": of_bias}


# By name, since `torch.add`, `Tensor.add` and `x + y` are three functions with one meaning.
RULES: dict[str, Callable] = {
    "linear": linear,
    "matmul": matmul,
    "__matmul__": matmul,
    "mm": matmul,
    "addmm": addmm,
    "einsum": einsum,
    "experts_mm": experts_rule,
    "embedding": embedding,
    "__getitem__": getitem,
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
    "batch_norm": batch_norm,
    "group_norm": group_norm,
    "instance_norm": instance_norm,
    "conv1d": _convolution(1),
    "conv2d": _convolution(2),
    "conv3d": _convolution(3),
    "conv_transpose1d": conv_transpose,
    "conv_transpose2d": conv_transpose,
    "conv_transpose3d": conv_transpose,
    **dict.fromkeys(("add", "__add__", "__radd__"), add),
    **dict.fromkeys(("sub", "subtract", "__sub__"), sub),
    **dict.fromkeys(("rsub", "__rsub__"), rsub),
    **dict.fromkeys(("mul", "multiply", "__mul__", "__rmul__"), mul),
    **dict.fromkeys(("div", "divide", "true_divide", "__truediv__"), div),
    "prelu": prelu,
    "where": where,
    "masked_fill": masked_fill,
    "assigned": assign,
    "copied": copy,
    "expand": expand,
    "expand_as": expand,
    "broadcast_to": expand,
    "repeat": repeat,
    "cat": cat,
    "concat": cat,
    "stack": stack,
    "scaled_dot_product_attention": attention,
}
# Rules that hold wherever the sample axis is moved from.
ANY_AXIS = ("linear", "matmul", "__matmul__", "einsum", "embedding", "layer_norm", "rms_norm")
ELEMENTWISE = (add, sub, rsub, mul, div)
# Rules that look at the shapes of the samples alone, and arguments of other rules for which that is so.
SHAPES_ONLY = (add, sub, rsub, copy, expand, repeat, cat, stack)
# Functions that only look at the type or the shape of what comes after the first argument.
LIKE = ("type_as", "to", "view_as", "reshape_as", "result_type", "is_same_size", "promote_types")
# Functions whose calls are recorded as others.
REWRITTEN = dict.fromkeys(("grouped_mm", "_grouped_mm", "grouped_mm_fallback"), as_experts_mm)


def needs_values(rule: Callable, argument: str | tuple[str, int]) -> bool:
    """Whether a rule has to see the values of the samples for the gradient of one argument."""
    return rule not in SHAPES_ONLY and argument != "bias"


@cache
def _arguments(rule: Callable) -> list[inspect.Parameter]:
    return list(inspect.signature(rule).parameters.values())[2:]


def argument_name(rule: Callable, key) -> str | tuple[str, int]:
    """What a rule calls the argument at a position or of a name (with an index: a member of a list)."""
    if isinstance(key, tuple):
        return argument_name(rule, key[0]), key[1]
    if isinstance(key, str):
        return key
    for at, parameter in enumerate(_arguments(rule)):
        if parameter.kind == inspect.Parameter.VAR_POSITIONAL:
            return parameter.name, key - at
        if at == key:
            return parameter.name
    return ""


def out_of_place(function: Callable) -> Callable:
    """The function that makes a new tensor of what an in-place function writes into its first argument."""
    name = function.__name__
    if name == "__setitem__":
        return assigned
    if name == "copy_":
        return copied
    name = name.replace("__i", "__", 1) if name.startswith("__i") else name.removesuffix("_")
    return getattr(torch.Tensor, name)
