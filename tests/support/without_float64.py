"""A device without float64, as Apple's MPS is one, on machines that have no such device.

It goes by the name of torch's "meta" device, for which autograd needs no driver; the values are on
the CPU.
"""

import contextlib
from unittest import mock

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

DEVICE = torch.device("meta")
MOVES = ("aten::copy_", "aten::_to_copy")
INDEXED = ("aten::index", "aten::index_put_", "aten::index_put", "aten::_index_put_impl_")


class Elsewhere(torch.Tensor):
    """A tensor of that device."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, values):
        options = {
            "strides": values.stride(),
            "storage_offset": values.storage_offset(),
            "dtype": values.dtype,
        }
        return torch.Tensor._make_wrapper_subclass(cls, values.size(), device=DEVICE, **options)

    def __init__(self, values):
        self.values_on_cpu = values

    def __repr__(self):
        return f"Elsewhere({self.values_on_cpu})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return computed(func, args, kwargs or {})


class Computing(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return computed(func, args, kwargs or {})


class Making(TorchFunctionMode):
    """Tensors made of numbers, which are not computed."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            # Torch would make a tensor of "meta" of it, which has no values.
            if isinstance(args[1], list):
                args = (args[0], torch.tensor(args[1]), *args[2:])
            return func(*args, **kwargs)
        if func not in (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor):
            return func(*args, **kwargs)
        tensor = args[0] if func is torch.Tensor.new_tensor else torch.empty(0)
        device = torch.device(kwargs.pop("device", None) or tensor.device)
        if func is torch.Tensor.new_tensor:
            kwargs.setdefault("dtype", tensor.dtype)
            args = args[1:]
        if isinstance(args[0], Elsewhere):
            return args[0].to(device)
        made = torch.tensor(*args, **kwargs)
        return made.to(device)


@contextlib.contextmanager
def without_float64():
    """Within this context there is such a device."""
    named = {
        name: getattr(torch, name)
        for name in ("autocast", "get_autocast_dtype", "is_autocast_enabled")
    }

    def as_cpu(function):
        # "meta" has no autocast
        return lambda device=None, *more, **keywords: function("cpu", *more, **keywords)

    with contextlib.ExitStack() as stack:
        for name, function in named.items():
            stack.enter_context(mock.patch.object(torch, name, as_cpu(function)))
        stack.enter_context(Computing())
        stack.enter_context(Making())
        yield


def values(tensor):
    return tensor.values_on_cpu


def mapped(value, kind, function):
    """The value with the function applied to all objects of a kind in it (torch's own version of
    this takes several times as long)."""
    if isinstance(value, kind):
        return function(value)
    if type(value) in (list, tuple):
        return type(value)(mapped(item, kind, function) for item in value)
    if type(value) is dict:
        return {name: mapped(item, kind, function) for name, item in value.items()}
    return value


def tensors_in(value):
    tensors = []
    mapped(value, torch.Tensor, tensors.append)
    return tensors


def computed(func, args, kwargs):
    name = func._schema.name
    tensors = tensors_in((args, kwargs))
    there = [isinstance(x, Elsewhere) for x in tensors]
    if any(x.device == DEVICE and not isinstance(x, Elsewhere) for x in tensors):
        raise RuntimeError(f"{name}: a tensor of {DEVICE} without values")
    onto = kwargs.get("device")
    onto = torch.device(onto) if onto is not None else DEVICE if any(there) else torch.device("cpu")
    if any(there) and name not in MOVES + INDEXED:
        for x in tensors:
            if not isinstance(x, Elsewhere) and x.ndim:
                raise RuntimeError(
                    f"{name}: expected all tensors to be on the same device, found {x.device} and "
                    f"{DEVICE}"
                )
    if name == "aten::_to_copy" and any(there) and kwargs.get("dtype") == torch.float64:
        raise TypeError(
            "cannot convert a tensor of this device to float64, not even on its way to another one"
        )
    if kwargs.get("device") is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    result = func(*mapped(args, Elsewhere, values), **mapped(kwargs, Elsewhere, values))
    if onto != DEVICE or (name == "aten::copy_" and not there[0]):
        return (
            return_and_correct_aliasing(func, args, kwargs, result)
            if any(there) and name in MOVES[:1]
            else result
        )
    if any(x.dtype == torch.float64 for x in tensors_in(result)):
        raise TypeError(f"{name}: this device has no float64")
    wrapped = mapped(result, torch.Tensor, Elsewhere)
    return return_and_correct_aliasing(func, args, kwargs, wrapped) if any(there) else wrapped


def moved(model: nn.Module) -> nn.Module:
    """The model with all parameters and buffers on that device."""
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = Elsewhere(buffer)
    moved_parameters = {}
    for module in model.modules():
        for name, p in module._parameters.items():
            if p is not None:
                moved_parameters.setdefault(p, nn.Parameter(Elsewhere(p.data), p.requires_grad))
                module._parameters[name] = moved_parameters[p]
    return model
