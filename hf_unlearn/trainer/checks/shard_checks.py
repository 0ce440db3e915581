"""Refuses models whose weights are split over processes in a way that the method does not work
with."""

from collections.abc import Iterable

from accelerate.utils import DistributedType
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.distributed.tensor import DTensor, Shard

from ...methods import Method
from ..protocol import ModelView
from .refusals import DDP, Refuse


def check_shards(method: Method, trainer: ModelView, refuse: Refuse) -> None:
    """Parameters must be sharded by FSDP2, through accelerate or by hand."""
    args, accelerator, model = trainer.args, trainer.accelerator, trainer.model
    launched = accelerator.distributed_type == DistributedType.FSDP
    wrapped = any(isinstance(module, FullyShardedDataParallel) for module in model.modules())
    if wrapped or launched and not accelerator.is_fsdp2:
        refuse(
            "FSDP1",
            "it flattens the parameters of a layer into one",
            "Use FSDP2 (fsdp_version: 2 in the configuration of accelerate).",
        )
    by_accelerate = bool(args.fsdp) or launched
    sharded = [p for p in model.parameters() if isinstance(p, DTensor)]
    if not by_accelerate and not sharded:
        return
    if not method.shards or method.prepares is not None:
        refuse("FSDP", "the method is not made for gradients in shards", DDP)
    if args.bf16_full_eval or args.fp16_full_eval:
        refuse(
            "bf16_full_eval or fp16_full_eval with FSDP",
            "it casts the sharded weights",
            "Use bf16.",
        )
    if args.torch_compile:
        refuse("torch_compile with FSDP", "it is not tested", "Set it to False.")
    if by_accelerate:
        _check_sharded_by_accelerate(trainer, refuse)
    else:
        _check_sharded_by_hand(trainer, sharded, refuse)


def _check_sharded_by_accelerate(trainer: ModelView, refuse: Refuse) -> None:
    """Refuses what does not work if accelerate shards the model."""
    if trainer.accelerator.mixed_precision == "fp16":
        refuse(
            "fp16 with FSDP",
            "its gradient scaler is not tested with sharded gradients",
            "Use bf16.",
        )


def _check_sharded_by_hand(trainer: ModelView, sharded: Iterable[DTensor], refuse: Refuse) -> None:
    """The whole model must be sharded along the first axis, over all processes."""
    model, everyone = trainer.model, list(range(trainer.args.world_size))
    if any(p.device_mesh.mesh.tolist() != everyone or p.placements != (Shard(0),) for p in sharded):
        refuse(
            f"a model with parameters in shards {sorted({str(p.placements) for p in sharded})}",
            f"they must be split along the first axis over all {len(everyone)} processes",
            "Call fully_shard without a mesh of several dimensions, shard_placement_fn or tensor "
            "parallelism.",
        )
    whole = [p for p in model.parameters() if p.requires_grad and not isinstance(p, DTensor)]
    if whole or not isinstance(model, FSDPModule):
        refuse(
            "a model of which only a part is in shards",
            "nothing averages the gradients of the other part over the processes",
            "Call fully_shard(model) on the whole model after its layers, and get_peft_model "
            "before it.",
        )
    precision = trainer.accelerator.mixed_precision
    if precision != "no":
        refuse(
            f"{precision} together with fully_shard",
            "FSDP2 itself casts the parameters",
            "Leave bf16 and fp16 off and call fully_shard(..., "
            "mp_policy=MixedPrecisionPolicy(torch.bfloat16)).",
        )
