"""From a recorded call and its output's gradient to the per-sample gradients of its parameters."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .rewriting import leading_equation
from .rows import Dense, Product, Rows, written_out
from .rules import ANY_AXIS, ELEMENTWISE, Unsupported, argument_name, by_sample, own_values
from .trace import Call, Key


def rows_of(
    call: Call, k: int, B: Tensor, saved: tuple[Tensor, ...]
) -> Iterator[tuple[nn.Parameter, Rows]]:
    """The per-sample gradients of every parameter behind a call, except for slow parameters.

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
            rows = _by_rule(call, k, gradients, values, key)
            rows = rows or _vectorised(call, k, gradients, values, key)
            if isinstance(tensor, nn.Parameter):
                pairs = [(roots[0], rows)]
            else:
                pairs = list(_pulled_back(call, tensor, roots, rows, k))
        except Unsupported as problem:
            call.trace.give_up(roots, str(problem))
            continue
        for parameter, rows in pairs:
            if id(parameter) not in call.trace.slow:
                yield parameter, rows


def _by_rule(
    call: Call, k: int, gradients: tuple[Tensor, ...], values: dict, key: Key
) -> Rows | None:
    """G_n of one argument by the rule of the call; None if no rule applies.

    Args:
        gradients: of the call's outputs.
        values: of the arguments that are tensors, by key.
    """
    rule = call.rule
    if rule is None or len(gradients) > 1:
        return None
    layouts = {at: layout for at, layout in call.samples.items() if values.get(at) is not None}
    moved = call.output.axis or any(layout.axis for layout in layouts.values())
    elementwise = rule in ELEMENTWISE and all(
        layout.axis == call.output.axis for layout in layouts.values()
    )
    only_sample, axis = call.output.only_sample, call.output.axis
    any_axis = call.function.__name__ in ANY_AXIS or elementwise
    if only_sample is None and moved and not any_axis:
        return None
    shape, ndim = values[key].shape, gradients[0].ndim
    try:
        # The rows of all other samples are zero.
        if only_sample is not None:
            rows = _apply_rule(call, 1, gradients[0], values, key)
            return None if rows is None else rows.among_zeros(only_sample, k)
        B = call.output.regular(gradients[0], k)
        values = {**values, **{at: layout.regular(values[at], k) for at, layout in layouts.items()}}
        if call.function.__name__ == "einsum" and moved:
            values[0] = leading_equation(call, values)
        if not (moved and elementwise):
            return _apply_rule(call, k, B, values, key)
        # The parameter's axes are moved like those of the samples, and back again.
        values = {
            at: _axis_first(x, ndim, axis) if at in call.tracked else x for at, x in values.items()
        }
        rows = _apply_rule(call, k, B, values, key)
        if not isinstance(rows, Dense):
            return None
        return Dense(rows.G.movedim(1, 1 + axis).reshape(k, *shape))
    except torch.OutOfMemoryError:
        raise
    # The rule does not expect these shapes.
    except (Unsupported, RuntimeError, IndexError, ValueError, TypeError):
        return None


def _apply_rule(call: Call, k: int, B: Tensor, values: dict, key: Key) -> Rows | None:
    """The result of the call's rule for one argument; None if it does not have the argument's size.

    A different size means the samples are not where the rule assumes.
    """
    if (rule := call.rule) is None:
        return None
    positional, keywords = call.filled(values)
    makers, name = rule(k, B, *positional, **keywords), argument_name(rule, key)
    rows = makers[name]() if name in makers else None
    return rows if rows is not None and rows.size == values[key].numel() else None


def _axis_first(weight: Tensor, ndim: int, axis: int) -> Tensor:
    """weight, broadcast to `ndim` axes, with one axis moved to the front."""
    return weight.reshape((1,) * (ndim - weight.ndim) + weight.shape).movedim(axis, 0)


def _vectorised(call: Call, k: int, gradients: tuple[Tensor, ...], values: dict, key: Key) -> Dense:
    """G_n of one argument by vectorised differentiation of the call on single samples.

    This works for any function that torch.func.vmap supports.

    Raises:
        Unsupported: the function does not vectorise.
    """
    name = call.function.__name__
    if not call.needs_values and call.samples:
        raise Unsupported(f"{name} of these shapes has no rule")
    # A 0-d tensor belongs to no sample.
    layouts = {at: layout for at, layout in call.samples.items() if values[at].ndim}

    def gradient_of_one(
        gradients_n: tuple[Tensor, ...], samples_n: dict[Key, Tensor], weight_n: Tensor
    ) -> Tensor:
        sample_arguments = {at: x.movedim(0, layouts[at].axis) for at, x in samples_n.items()}

        def outputs(weight: Tensor) -> tuple[Tensor, ...]:
            result = call.run({**values, **sample_arguments, key: weight})
            result = result if isinstance(result, (list, tuple)) else (result,)
            floating = [x for x in result if isinstance(x, Tensor) and x.is_floating_point()]
            return (floating[0].movedim(call.output.axis, 0), *floating[1:])

        # It gives three values with `has_aux` only.
        _, pull_back = torch.func.vjp(outputs, weight_n)  # type: ignore[misc]
        return pull_back(gradients_n)[0]

    device, dtype, enabled = call.autocast
    try:
        with torch.autocast(device, dtype=dtype, enabled=enabled):
            # (k, s, ...) each
            first = by_sample(call.output.regular(gradients[0], k), k)
            B = (first, *(by_sample(x, k) for x in gradients[1:]))
            samples = {
                at: by_sample(layout.regular(values[at], k), k) for at, layout in layouts.items()
            }
            weight = values[key]
            # The weight has values of its own for each sample.
            if weight.ndim and len(weight) == first.shape[0] * first.shape[1] > 1:
                G = torch.func.vmap(gradient_of_one)(B, samples, by_sample(weight, k))
                return own_values(G.flatten(0, 1), k, 0)
            return Dense(torch.func.vmap(gradient_of_one, (0, 0, None))(B, samples, weight))
    except (Unsupported, RuntimeError, ValueError, TypeError, IndexError) as error:
        raise Unsupported(f"{name} has no rule and does not vectorise") from error


def _pulled_back(
    call: Call, tensor: Tensor, roots: tuple[nn.Parameter, ...], rows: Rows, k: int
) -> Iterator[tuple[nn.Parameter, Rows]]:
    """From per-sample gradients of a tensor computed from parameters to those of the parameters."""
    simple = _through_one_step(tensor, roots, rows)
    if simple is not None:
        yield roots[0], simple
        return
    lines = tensor.shape[0] if tensor.ndim else 1
    G = written_out([rows], lines, tensor.numel() // lines)
    G = G.reshape(k, *tensor.shape).to(tensor.dtype)  # (k, *tensor.shape)
    leaves = [call.trace.leaf(root) for root in roots]
    options = {"retain_graph": True, "allow_unused": True}
    try:
        gradients = torch.autograd.grad(tensor, leaves, G, is_grads_batched=True, **options)
    # Not every function vectorises.
    except RuntimeError:
        each = [torch.autograd.grad(tensor, leaves, G_n, **options) for G_n in G]
        gradients = [None if parts[0] is None else torch.stack(parts) for parts in zip(*each)]
    for parameter, gradient in zip(roots, gradients):
        if gradient is not None:
            yield parameter, Dense(gradient)


def _through_one_step(tensor: Tensor, roots: tuple[nn.Parameter, ...], rows: Rows) -> Rows | None:
    """Rows of the parameter in their present form, if the tensor is one simple step away from it.

    Such steps are a cast, a transposition, and adding or removing axes of length one. None for all
    others.
    """
    parameter, step, source = roots[0], tensor.grad_fn.name(), tensor.grad_fn.next_functions[0][0]
    if len(roots) > 1 or source is None or source.name() != "torch::autograd::AccumulateGrad":
        return None
    if step in ("ToCopyBackward0", "ViewBackward0", "UnsqueezeBackward0", "SqueezeBackward1"):
        return rows if tensor.shape[:1] == parameter.shape[:1] else None
    transposed = step in ("TBackward0", "TransposeBackward0") and tensor.ndim == 2
    if transposed and isinstance(rows, Product):
        return Product(rows.X, rows.B)
    return None
