"""Stand-ins for functions of torch whose parts a torch function mode would not see."""

import types
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import _engine_run_backward


def _backward(
    tensors: Tensor | tuple[Tensor, ...],
    grad_tensors: Tensor | tuple[Tensor | None, ...] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    grad_variables: None = None,
    inputs: Tensor | tuple[Tensor, ...] | None = None,
) -> None:
    """`torch.autograd.backward`, without suspending torch function modes."""
    tensors = (tensors,) if isinstance(tensors, Tensor) else tuple(tensors)
    if isinstance(grad_tensors, Tensor):
        grads = (grad_tensors,)
    else:
        grads = tuple(grad_tensors or [None] * len(tensors))
    grads = tuple(torch.ones_like(t) if grad is None else grad for t, grad in zip(tensors, grads))
    keep = create_graph if retain_graph is None else retain_graph
    inputs = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs or ())
    _engine_run_backward(
        tensors, grads, keep, create_graph, inputs, allow_unreachable=True, accumulate_grad=True
    )


def _tensor_backward(
    tensor: Tensor,
    gradient: Tensor | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Tensor | tuple[Tensor, ...] | None = None,
) -> None:
    """`torch.Tensor.backward`, without suspending torch function modes."""
    _backward(tensor, gradient, retain_graph, create_graph, inputs=inputs)


BACKWARD_FUNCTIONS = {torch.autograd.backward: _backward, torch.Tensor.backward: _tensor_backward}


def _opened(function: Callable) -> Callable:
    """A copy of a Python function of torch that torch function modes see the parts of.

    The original hands itself to the mode as a whole.
    """
    names = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
    opened = types.FunctionType(
        function.__code__,
        {**function.__globals__, **dict.fromkeys(names, lambda *tensors: False)},
        function.__name__,
        function.__defaults__,
    )
    opened.__kwdefaults__ = function.__kwdefaults__
    return opened


open_attention = _opened(F.multi_head_attention_forward)
