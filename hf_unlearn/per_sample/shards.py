"""Models in shards (FSDP2, `fully_shard`): what their modules hold while they compute, and the
parameters behind it.

Each process has some lines of every parameter, as a DTensor, and the same lines of its `.grad`.
While a module computes, FSDP2 puts whole tensors in the parameters' place; their gradients it
averages over the processes and adds to `.grad`.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from .. import ops


def sharded_modules(model: nn.Module) -> list[FSDPModule]:
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def prepare_sharded(model: nn.Module) -> None:
    """Makes a model that was given to `fully_shard` by hand ready for accelerate, which would wrap
    it, and generation."""
    model._is_accelerate_prepared = True
    if hasattr(model, "generate"):
        register_fsdp_forward_method(model, "generate")


def own_parameters(model: nn.Module) -> list[nn.Parameter]:
    """A model's parameters as its optimizer has them: after a forward pass FSDP2 leaves some whole
    tensors in their place, which are freed here."""
    for module in sharded_modules(model):
        module.reshard()
    return list(model.parameters())


def whole_tensors(model: nn.Module) -> dict[int, Tensor]:
    """By the id of each sharded parameter, the tensor that its module computes with, which is the
    same in every pass.

    One module after the other is gathered and freed, so all processes have to call this together.
    """
    own_parameters(model)
    places = [
        (m, name, p) for m in model.modules() for name, p in m.named_parameters(recurse=False)
    ]
    found = {}
    for module in sharded_modules(model):
        module.unshard()
        now = [(getattr(m, name), p) for m, name, p in places]
        found.update((id(p), whole) for whole, p in now if whole is not p)
        module.reshard()
    return found


def local(tensor: Tensor) -> Tensor:
    """What this process has of a tensor that may be in shards."""
    return tensor.detach().to_local() if isinstance(tensor, DTensor) else tensor.detach()


def lines_of(parameter: DTensor) -> list[slice]:
    """The lines that each process has of a sharded parameter, split as `torch.chunk` does."""
    processes, lines = parameter.device_mesh.size(), len(parameter)
    size = -(-lines // processes)
    return [slice(min(lines, n * size), min(lines, (n + 1) * size)) for n in range(processes)]


def split_like(parameter: DTensor, whole: Tensor) -> DTensor:
    """A whole tensor in shards, as a parameter of the same shape has them."""
    mesh = parameter.device_mesh
    share = whole[lines_of(parameter)[mesh.get_local_rank()]].clone()
    options = {"run_check": False, "shape": parameter.shape, "stride": parameter.stride()}
    return DTensor.from_local(share.to(parameter.device), mesh, parameter.placements, **options)


def made_whole(tensor: Tensor) -> Tensor:
    """A tensor; one in shards is put together on the CPU of the main process, and empty on the
    others (all have to call this together)."""
    if not isinstance(tensor, DTensor):
        return tensor.detach()
    whole = tensor.detach().full_tensor()
    return whole.cpu() if dist.get_rank() == 0 else whole.new_empty(0, device="cpu")


def fill(tensor: Tensor, whole: Tensor) -> None:
    """Writes whole values into a tensor that may be in shards."""
    local(tensor).copy_(local(split_like(tensor, whole)) if isinstance(tensor, DTensor) else whole)


# Values of a float32 norm; the norm of all such norms is in float64.
BLOCK = 2**10


def squared_norm(tensor: Tensor) -> Tensor:
    """|x|^2 in float64, of a whole tensor where it is in shards (then all processes have to call
    this together)."""
    values = local(tensor).flatten()
    here = ops.has_float64(values.device)
    values = values if here else values.float()
    # by blocks short enough for it: four times as fast as in float64
    if values.dtype == torch.float32:
        whole = len(values) - len(values) % BLOCK
        norms = torch.linalg.vector_norm(values[:whole].view(-1, BLOCK), dim=1)
        values = torch.cat([norms, values[whole:]])
    square = torch.linalg.vector_norm(
        values if here else ops.doubled(values), dtype=torch.float64
    ).square()
    if isinstance(tensor, DTensor):
        dist.all_reduce(square, group=tensor.device_mesh.get_group())
    return square


def averaged(gradient: Tensor, parameter: nn.Parameter) -> Tensor:
    """The mean over processes of whole gradients of a sharded parameter, in shards, as FSDP2 makes
    it."""
    mesh = parameter.device_mesh
    total = gradient.to(parameter.dtype, memory_format=torch.contiguous_format, copy=True)
    dist.all_reduce(total, group=mesh.get_group())
    return split_like(parameter, total / mesh.size())


def add_gradient(parameter: nn.Parameter, gradient: Tensor | None) -> None:
    """Adds what this process has of a whole gradient to `.grad`; of a sharded parameter, the mean
    over processes."""
    if gradient is None:
        return
    if isinstance(parameter, DTensor):
        gradient = averaged(gradient, parameter)
    parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
