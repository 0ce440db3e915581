"""Refuses at construction what could only be wrong later: what, why, and what to do instead."""

import datasets
import torch
from accelerate.utils import DistributedType
from torch import nn
from torch._dynamo import OptimizedModule
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.distributed.tensor import DTensor, Shard
from torch.nn.modules.batchnorm import _BatchNorm

from ..config import UnlearnConfig
from ..methods import Method
from . import deepspeed

DDP = "Use DDP (recipes/accelerate/ddp.yaml), with LoRA (peft_config) or gradient checkpointing where memory is short."
INSTEAD = "Use FSDP2 (recipes/accelerate/fsdp2.yaml) for a model too large for one GPU, else DDP (recipes/accelerate/ddp.yaml)."


NO_FORGET = "forget_dataset is missing: give the samples to forget (train_dataset is its alias)"


def check_data(method: Method, forget_dataset, retain_dataset, args: UnlearnConfig) -> None:
    """A trainer without data to forget evaluates only."""
    if forget_dataset is None:
        if args.do_train:
            raise ValueError(NO_FORGET)
        return
    if hasattr(forget_dataset, "__len__") and len(forget_dataset) == 0:
        raise ValueError("forget_dataset is empty: give at least one sample to forget")
    if method.prepares and "forget" in method.prepares and not hasattr(forget_dataset, "__len__"):
        raise ValueError(
            f"forget_dataset is iterable only, but method={args.method!r} looks at all of it "
            "before the first step: take the "
            "samples into a list or a Dataset first"
        )
    if not method.uses_retain and "retain" not in (method.prepares or ()):
        return
    if retain_dataset is None:
        raise ValueError(
            "retain_dataset is missing: this method needs samples to keep, if only a few dozen"
        )
    if isinstance(retain_dataset, (torch.utils.data.IterableDataset, datasets.IterableDataset)):
        raise ValueError(
            "retain_dataset is iterable only, but the retain batch of a step must not depend on "
            "what was read before: "
            "take the samples into a list or a Dataset first"
        )
    if len(retain_dataset) == 0:
        raise ValueError(
            "retain_dataset is empty: give at least one sample to keep, or use "
            "method='gradient_ascent'"
        )
    if len(retain_dataset) < args.world_size:
        raise ValueError(
            f"retain_dataset has {len(retain_dataset)} samples, but there are {args.world_size} "
            "processes: each needs "
            "at least one. Start fewer processes or give more retain samples."
        )


def check_deepspeed(method: Method, args: UnlearnConfig, plugin=None) -> None:
    """Before the Trainer is built, which would start it, and after it, when accelerate has spoken.

    Args:
        plugin: accelerate's DeepSpeedPlugin, where it was launched with one.
    """
    plugin = plugin or args.deepspeed_plugin
    if plugin is None:
        return
    if method.edits_gradient:
        what, why = (
            "DeepSpeed",
            "its engine owns the gradients, and steps before a method could change them",
        )
    elif plugin.zero_stage > deepspeed.MAX_STAGE:
        what, why = (
            f"ZeRO stage {plugin.zero_stage}",
            "it is not made for weights in DeepSpeed's shards",
        )
    else:
        return
    raise ValueError(f"{what} does not work with method={args.method!r}: {why}. {INSTEAD}")


def check_compatible(method: Method, trainer) -> None:
    args, accelerator = trainer.args, trainer.accelerator
    check_deepspeed(method, args, getattr(accelerator.state, "deepspeed_plugin", None))
    if trainer.train_dataset is None:
        return
    if not any(p.requires_grad for p in trainer.model.parameters()):
        raise ValueError(
            "no parameter of the model has requires_grad=True, so that there is nothing to train: "
            "unfreeze some, or give a "
            "peft_config (to evaluate only, leave forget_dataset out)"
        )

    def refuse(what: str, why: str, instead: str):
        raise ValueError(f"{what} does not work with method={args.method!r}: {why}. {instead}")

    if args.label_smoothing_factor:
        refuse(
            "label_smoothing_factor",
            "its loss averages over the tokens of the batch",
            "Set it to 0.",
        )
    if args.auto_find_batch_size and (
        args.world_size > 1 or accelerator.is_fsdp2 or trainer.is_deepspeed_enabled
    ):
        refuse(
            "auto_find_batch_size with several processes, FSDP or DeepSpeed",
            "a process that runs out of memory would begin again while the others wait for it",
            "Set it to False, and lower per_device_train_batch_size and "
            "per_device_retain_batch_size where they do not fit.",
        )
    streamed = isinstance(
        trainer.train_dataset, (torch.utils.data.IterableDataset, datasets.IterableDataset)
    )
    if streamed and args.world_size > 1 and accelerator.dispatch_batches is False:
        refuse(
            "dispatch_batches=False with an iterable forget_dataset on several processes",
            "each would read the data by itself, and some would end before the others, which wait "
            "for them",
            "Leave dispatch_batches out of accelerator_config: then the main process reads for "
            "all.",
        )
    method.check(trainer.model)
    check_shards(method, trainer, refuse)
    if method.prepares is not None and trainer.model_init is not None:
        refuse(
            "model_init",
            "the method looks at the model before training starts, which makes a new one",
            "Give model.",
        )
    if method.one_shot and args.fp16:
        refuse(
            "fp16", "a gradient scaler wants a gradient, and there is none", "Set fp16 to False."
        )
    if not method.per_sample:
        return
    if not args.freeze_batch_norm and any(
        isinstance(module, _BatchNorm) for module in trainer.model.modules()
    ):
        refuse(
            "freeze_batch_norm=False",
            "its samples would interact and have no gradient of their own",
            "Set it to True.",
        )
    if args.n_gpu > 1:
        refuse(
            f"DataParallel on {args.n_gpu} GPUs",
            "it copies the parameters",
            "Start with `accelerate launch` or `torchrun`, or set CUDA_VISIBLE_DEVICES to one GPU.",
        )
    if args.torch_compile or any(_is_compiled(module) for module in trainer.model.modules()):
        refuse(
            "torch_compile",
            "a compiled graph hides the layers whose samples are told apart",
            "Set it to False, and give the model as it is before torch.compile.",
        )
    if args.use_liger_kernel:
        refuse(
            "use_liger_kernel",
            "its fused loss averages over the tokens of the batch",
            "Set it to False.",
        )


def check_shards(method: Method, trainer, refuse) -> None:
    """Parameters in shards: FSDP2, by accelerate or by hand, over all processes and along their
    first axis."""
    args, accelerator, model = trainer.args, trainer.accelerator, trainer.model
    by_accelerate = bool(args.fsdp) or accelerator.distributed_type == DistributedType.FSDP
    if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()) or (
        by_accelerate
        and not accelerator.is_fsdp2
        and accelerator.distributed_type == DistributedType.FSDP
    ):
        refuse(
            "FSDP1",
            "it flattens the parameters of a layer into one",
            "Use FSDP2 (fsdp_version: 2 in the configuration of accelerate, as in "
            "recipes/accelerate/fsdp2.yaml).",
        )
    parameters = list(model.parameters())
    in_shards = [p for p in parameters if isinstance(p, DTensor)]
    if not by_accelerate and not in_shards:
        return
    if not method.shards or method.prepares is not None:
        refuse("FSDP", "it is not made for gradients in shards", DDP)
    if args.bf16_full_eval or args.fp16_full_eval:
        refuse(
            "bf16_full_eval or fp16_full_eval with FSDP",
            "it casts the weights in their shards",
            "Use bf16.",
        )
    if args.torch_compile:
        refuse("torch_compile with FSDP", "it is not tested", "Set it to False.")
    if by_accelerate:
        if accelerator.mixed_precision == "fp16":
            refuse(
                "fp16 with FSDP",
                "its gradient scaler is not tested with gradients in shards",
                "Use bf16.",
            )
        if accelerator.is_fsdp2:  # so that what is saved loads with from_pretrained
            accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
        return
    everyone = list(range(args.world_size))
    if any(
        p.device_mesh.mesh.tolist() != everyone or p.placements != (Shard(0),) for p in in_shards
    ):
        refuse(
            f"a model with parameters in shards {sorted({str(p.placements) for p in in_shards})}",
            f"they must be split along the first axis over all {args.world_size} processes",
            "Call fully_shard without a mesh of several dimensions, shard_placement_fn or tensor "
            "parallelism.",
        )
    if not isinstance(model, FSDPModule) or any(
        p.requires_grad and not isinstance(p, DTensor) for p in parameters
    ):
        refuse(
            "a model of which only a part is in shards",
            "nobody averages the gradients of the rest over the processes",
            "Call fully_shard(model) on the whole model after its layers, and get_peft_model "
            "before it.",
        )
    if accelerator.mixed_precision != "no":
        refuse(
            f"{accelerator.mixed_precision} beside fully_shard",
            "FSDP2 itself casts the parameters",
            "Leave bf16 and fp16 off and call fully_shard(..., "
            "mp_policy=MixedPrecisionPolicy(torch.bfloat16)).",
        )


def _is_compiled(module: nn.Module) -> bool:
    return isinstance(module, OptimizedModule) or module._compiled_call_impl is not None


def checkpoints_activations(model: nn.Module) -> bool:
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
