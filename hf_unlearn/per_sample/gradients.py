"""From a recorded call's inputs and its output's gradient to the per-sample gradients of the
parameters behind it."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .rows import Dense, Product, Rows, written_out
from .rules import (
    ANY_AXIS,
    ELEMENTWISE,
    Unsupported,
    argument_name,
    by_sample,
    leading_equation,
    own_values,
)
from .trace import Call, Key


def rows_of(
    call: Call, k: int, B: Tensor, saved: tuple[Tensor, ...]
) -> Iterator[tuple[nn.Parameter, Rows]]:
    """The per-sample gradients of every parameter behind a call, but of those that have to take the
    slow path.

    Args:
        B: gradient of the call's (first) output.
        saved: the call's sample tensors, and the gradients of its other outputs.
    """
    keys = list(call.samples) if call.needs_values else []
    values = {**dict(zip(keys, saved)), **{key: t.detach() for key, t in call.tracked.items()}}
    gradients = (B, *saved[len(keys) :])
    for key, tensor in call.tracked.items():
        roots = call.behind[key]
        if all(id(root) in call.trace.slow for root in roots):
            continue
        try:
            rows = _by_rule(call, k, gradients, values, key) or _vectorised(
                call, k, gradients, values, key
            )
            found = (
                [(roots[0], rows)]
                if isinstance(tensor, nn.Parameter)
                else list(_pulled_back(call, tensor, roots, rows, k))
            )
        except Unsupported as problem:
            call.trace.give_up(roots, str(problem))
            continue
        for parameter, rows in found:
            if id(parameter) not in call.trace.slow:
                yield parameter, rows


def _by_rule(
    call: Call, k: int, gradients: tuple[Tensor, ...], values: dict, key: Key
) -> Rows | None:
    rule = call.rule
    if rule is None or len(gradients) > 1:
        return None
    layouts = {at: layout for at, layout in call.samples.items() if values.get(at) is not None}
    moved = call.output.axis or any(layout.axis for layout in layouts.values())
    elementwise = rule in ELEMENTWISE and all(
        layout.axis == call.output.axis for layout in layouts.values()
    )
    sole = call.output.sole
    if sole is None and moved and call.function.__name__ not in ANY_AXIS and not elementwise:
        return None
    shape, axis, ndim = values[key].shape, call.output.axis, gradients[0].ndim
    try:
        if sole is not None:  # only one sample takes part: the others' rows are zero
            rows = _ruled(call, 1, gradients[0], values, key)
            return None if rows is None else rows.placed(sole, k)
        B = call.output.regular(gradients[0], k)
        values = {**values, **{at: layout.regular(values[at], k) for at, layout in layouts.items()}}
        if call.function.__name__ == "einsum" and moved:
            values[0] = leading_equation(call, values)
        # the parameter's axes are moved like those of the samples, and back again
        if moved and elementwise:
            values = {
                at: _moved(x, ndim, axis) if at in call.tracked else x for at, x in values.items()
            }
        rows = _ruled(call, k, B, values, key)
        if rows is not None and moved and elementwise:
            return Dense(rows.G.movedim(1, 1 + axis).reshape(k, *shape))
        return rows
    except torch.OutOfMemoryError:
        raise
    except (
        Unsupported,
        RuntimeError,
        IndexError,
        ValueError,
        TypeError,
    ):  # shapes that the rule does not expect
        return None


def _ruled(call: Call, k: int, B: Tensor, values: dict, key: Key) -> Rows | None:
    """What the call's rule makes for one argument, if it is of that argument's size: else the
    samples lie elsewhere than is known."""
    positional, keywords = call.filled(values)
    makers, name = call.rule(k, B, *positional, **keywords), argument_name(call.rule, key)
    rows = makers[name]() if name in makers else None
    return rows if rows is not None and rows.size == values[key].numel() else None


def _moved(weight: Tensor, ndim: int, axis: int) -> Tensor:
    return weight.reshape((1,) * (ndim - weight.ndim) + weight.shape).movedim(axis, 0)


def _vectorised(call: Call, k: int, gradients: tuple[Tensor, ...], values: dict, key: Key) -> Dense:
    """G_n by vectorised differentiation of the call on single samples, for any function that
    torch.func.vmap takes."""
    name = call.function.__name__
    if not call.needs_values and call.samples:
        raise Unsupported(f"{name} of these shapes has no rule")
    # a number belongs to no sample
    layouts = {at: layout for at, layout in call.samples.items() if values[at].ndim}

    def of_one(gradients_n, samples_n, weight_n):
        given = {at: x.movedim(0, layouts[at].axis) for at, x in samples_n.items()}

        def outputs(weight):
            result = call.run({**values, **given, key: weight})
            result = result if isinstance(result, (list, tuple)) else (result,)
            floating = [x for x in result if isinstance(x, Tensor) and x.is_floating_point()]
            return (floating[0].movedim(call.output.axis, 0), *floating[1:])

        _, pull = torch.func.vjp(outputs, weight_n)
        return pull(gradients_n)[0]

    device, dtype, enabled = call.autocast
    try:
        with torch.autocast(device, dtype=dtype, enabled=enabled):
            B = (
                by_sample(call.output.regular(gradients[0], k), k),
                *(by_sample(x, k) for x in gradients[1:]),
            )
            samples = {
                at: by_sample(layout.regular(values[at], k), k) for at, layout in layouts.items()
            }
            # its own for each sample
            if values[key].ndim and len(values[key]) == B[0].shape[0] * B[0].shape[1] > 1:
                each = torch.func.vmap(of_one)(B, samples, by_sample(values[key], k))
                return own_values(each.flatten(0, 1), k, 0)
            return Dense(torch.func.vmap(of_one, (0, 0, None))(B, samples, values[key]))
    except (
        Unsupported,
        RuntimeError,
        ValueError,
        TypeError,
        IndexError,
        NotImplementedError,
    ) as error:
        raise Unsupported(f"{name} has no rule and does not vectorise") from error


def _pulled_back(
    call: Call, tensor: Tensor, roots: tuple[nn.Parameter, ...], rows: Rows, k: int
) -> Iterator[tuple[nn.Parameter, Rows]]:
    """From per-sample gradients of a tensor made of parameters to those of the parameters."""
    simple = _through_one_step(tensor, roots, rows)
    if simple is not None:
        yield roots[0], simple
        return
    lines = tensor.shape[0] if tensor.ndim else 1
    G = (
        written_out([rows], lines, tensor.numel() // lines)
        .reshape(k, *tensor.shape)
        .to(tensor.dtype)
    )
    leaves = [call.trace.leaf(root) for root in roots]
    options = {"retain_graph": True, "allow_unused": True}
    try:
        gradients = torch.autograd.grad(tensor, leaves, G, is_grads_batched=True, **options)
    except RuntimeError:  # not everything vectorises
        each = [torch.autograd.grad(tensor, leaves, G_n, **options) for G_n in G]
        gradients = [None if parts[0] is None else torch.stack(parts) for parts in zip(*each)]
    for parameter, gradient in zip(roots, gradients):
        if gradient is not None:
            yield parameter, Dense(gradient)


def _through_one_step(tensor: Tensor, roots: tuple[nn.Parameter, ...], rows: Rows) -> Rows | None:
    """The same rows, never made dense, where a parameter was only cast, transposed, or given or
    relieved of axes of length one."""
    parameter, step, source = roots[0], tensor.grad_fn.name(), tensor.grad_fn.next_functions[0][0]
    if len(roots) > 1 or source is None or source.name() != "torch::autograd::AccumulateGrad":
        return None
    if step in ("ToCopyBackward0", "ViewBackward0", "UnsqueezeBackward0", "SqueezeBackward1"):
        return rows if tensor.shape[:1] == parameter.shape[:1] else None
    if (
        step in ("TBackward0", "TransposeBackward0")
        and tensor.ndim == 2
        and isinstance(rows, Product)
    ):
        return Product(rows.X, rows.B)
    return None
