"""Sharded models (FSDP2, `fully_shard`): whole tensors and the sharded parameters behind them.

Each process has some lines of every parameter, as a DTensor, and the same lines of its `.grad`.
While a module computes, FSDP2 replaces its parameters by whole tensors. It averages their gradients
over the processes and adds them to `.grad`.
"""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from .. import ops


def sharded_modules(model: nn.Module) -> list[FSDPModule]:
    """The modules that were given to `fully_shard`."""
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def prepare_sharded(model: nn.Module) -> None:
    """Prepares a model that the user has sharded for accelerate and for generation.

    Otherwise accelerate would wrap it.
    """
    model._is_accelerate_prepared = True
    if hasattr(model, "generate"):
        register_fsdp_forward_method(model, "generate")


def own_parameters(model: nn.Module) -> list[nn.Parameter]:
    """A model's parameters as its optimizer has them.

    After a forward pass, FSDP2 leaves some whole tensors in their place. These are freed here.
    """
    for module in sharded_modules(model):
        module.reshard()
    return list(model.parameters())


def whole_tensors(model: nn.Module) -> dict[int, Tensor]:
    """The whole tensor that stands for each sharded parameter, by the parameter's id.

    It is the same tensor in every pass. The modules are gathered and freed one after the other, so
    all processes must call this together.
    """
    own_parameters(model)
    placed = [
        (m, name, p) for m in model.modules() for name, p in m.named_parameters(recurse=False)
    ]
    wholes = {}
    for module in sharded_modules(model):
        module.unshard()
        now = [(getattr(m, name), p) for m, name, p in placed]
        wholes.update((id(p), whole) for whole, p in now if whole is not p)
        module.reshard()
    return wholes


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor on this process: all of it unless it is sharded."""
    whole = tensor.detach()
    return whole.to_local() if isinstance(whole, DTensor) else whole


def lines_of(parameter: DTensor) -> list[slice]:
    """The lines of a sharded parameter on each process, which are split like `torch.chunk`."""
    processes, lines = parameter.device_mesh.size(), len(parameter)
    size = -(-lines // processes)
    return [slice(min(lines, n * size), min(lines, (n + 1) * size)) for n in range(processes)]


def split_like(parameter: DTensor, whole: Tensor) -> DTensor:
    """A whole tensor, sharded like a parameter of the same shape."""
    mesh = parameter.device_mesh
    share = whole[lines_of(parameter)[mesh.get_local_rank()]].clone()
    options = {"run_check": False, "shape": parameter.shape, "stride": parameter.stride()}
    return DTensor.from_local(share.to(parameter.device), mesh, parameter.placements, **options)


def gather_to_main(tensor: Tensor) -> Tensor:
    """A tensor in one piece: a sharded one on the CPU of the main process, and empty on the others.

    All processes must call this together.
    """
    detached = tensor.detach()
    if not isinstance(detached, DTensor):
        return detached
    whole = detached.full_tensor()
    return whole.cpu() if dist.get_rank() == 0 else whole.new_empty(0, device="cpu")


def copy_into(tensor: Tensor, whole: Tensor) -> None:
    """Writes whole values into a tensor that may be sharded."""
    local(tensor).copy_(local(split_like(tensor, whole)) if isinstance(tensor, DTensor) else whole)


# Values in one float32 norm. The norm of these norms is computed in float64.
NORM_BLOCK = 2**10


def squared_norm(tensor: Tensor) -> Tensor:
    """|x|^2 in float64; all processes must call this together if the tensor is sharded."""
    values = local(tensor).flatten()
    here = ops.has_float64(values.device)
    values = values if here else values.float()
    # Float32 is accurate enough for short blocks, and four times as fast as float64.
    if values.dtype == torch.float32:
        end = len(values) - len(values) % NORM_BLOCK
        norms = torch.linalg.vector_norm(values[:end].view(-1, NORM_BLOCK), dim=1)
        values = torch.cat([norms, values[end:]])
    values = values if here else ops.to_float64(values)
    square = torch.linalg.vector_norm(values, dtype=torch.float64).square()
    if isinstance(tensor, DTensor):
        dist.all_reduce(square, group=tensor.device_mesh.get_group())
    return square


def averaged(gradient: Tensor, parameter: DTensor) -> Tensor:
    """The sharded mean over processes of whole gradients of a sharded parameter, as in FSDP2."""
    mesh = parameter.device_mesh
    total = gradient.to(parameter.dtype, memory_format=torch.contiguous_format, copy=True)
    dist.all_reduce(total, group=mesh.get_group())
    return split_like(parameter, total / mesh.size())


def add_gradient(parameter: nn.Parameter, gradient: Tensor | None) -> None:
    """Adds a whole gradient to `.grad`; for a sharded parameter, the mean over processes."""
    if gradient is None:
        return
    if isinstance(parameter, DTensor):
        gradient = averaged(gradient, parameter)
    parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)


def all_finite(tensors: Iterable[Tensor | None]) -> bool:
    """Whether all values that this process has are finite (one synchronisation for all tensors)."""
    tensors = [local(tensor) for tensor in tensors if tensor is not None]
    tensors = [tensor for tensor in tensors if tensor.numel()]
    if not tensors:
        return True
    # On CPUs sums are faster than norms, so they are tried first.
    if all(tensor.device.type == "cpu" for tensor in tensors):
        sums = [
            tensor.sum(dtype=torch.promote_types(tensor.dtype, torch.float32)).double()
            for tensor in tensors
        ]
        # If not, either a value is not finite, or the sum of finite values overflows.
        if bool(torch.isfinite(torch.stack(sums)).all()):
            return True
    norms = [norm.float() for norm in torch._foreach_norm(tensors, torch.inf)]
    return bool(torch.isfinite(torch.stack(norms)).all())
