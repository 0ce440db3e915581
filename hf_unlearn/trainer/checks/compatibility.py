"""Refuses, when the trainer is constructed, what could only go wrong later. Each message says what
is refused, why, and what to do instead."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from accelerate.utils import DeepSpeedPlugin, DistributedType
from torch import nn
from torch._dynamo import OptimizedModule
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.distributed.tensor import DTensor, Shard
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import Trainer

from ...config import UnlearnConfig
from ...methods import Method
from ..batches.retain_batches import check_retain_size
from ..batches.training_data import length_or_none
from ..protocol import RunView
from ..setup import deepspeed
from .forget_options import check_limit, check_objective, check_temperature

DDP = (
    "Use DDP (recipes/accelerate/ddp.yaml), with LoRA (peft_config) or gradient checkpointing if "
    "memory is short."
)
USE_FSDP2 = (
    "Use FSDP2 (recipes/accelerate/fsdp2.yaml) for a model too large for one GPU, else DDP "
    "(recipes/accelerate/ddp.yaml)."
)
NO_FORGET = (
    "forget_dataset is missing: give the samples to forget (train_dataset is another name for it)"
)

# Called with what is refused, why, and what to do instead. Raises ValueError.
Refuse = Callable[[str, str, str], None]


def _refuse(method: Any, what: str, why: str, instead: str) -> None:
    raise ValueError(f"{what} does not work with method={method!r}: {why}. {instead}")


def _refuse_always(what: str, why: str, instead: str) -> None:
    raise ValueError(f"{what} is not supported: {why}. {instead}")


# ---- data ----------------------------------------------------------------------------------------


def check_data(
    method: Method, forget_dataset: Any, retain_dataset: Any, args: UnlearnConfig
) -> None:
    """Checks that the datasets fit the method. A trainer without a forget set only evaluates.

    Raises:
        ValueError: a dataset is missing, empty, too small, no dataset at all, or a stream that may
            not be one.
    """
    for name, dataset in (("forget_dataset", forget_dataset), ("retain_dataset", retain_dataset)):
        check_kind(name, dataset)
    if forget_dataset is None:
        if args.do_train:
            raise ValueError(NO_FORGET)
        return
    size = length_or_none(forget_dataset)
    if size == 0:
        raise ValueError("forget_dataset is empty: give at least one sample to forget")
    prepares = method.prepares or ()
    if "forget" in prepares and size is None:
        raise ValueError(
            f"forget_dataset is a stream, but method={args.method!r} reads all of it before the "
            "first step: load the samples into a list or a Dataset"
        )
    if method.uses_retain or "retain" in prepares:
        _check_retain(retain_dataset, args)


def check_kind(name: str, dataset: Any) -> None:
    """Refuses what is not one dataset: a name, a dict of splits, or something that can be read
    only once."""
    if isinstance(dataset, str | os.PathLike):
        raise ValueError(
            f"{name} is {str(dataset)!r}, which is no dataset: load it first, for example with "
            "datasets.load_dataset"
        )
    if isinstance(dataset, Mapping):
        raise ValueError(
            f"{name} has the keys {', '.join(map(str, dataset))}, but must be one dataset: give "
            "one of its splits"
        )
    if isinstance(dataset, Iterator):
        raise ValueError(
            f"{name} is a {type(dataset).__name__}, which can be read only once: give a list or a "
            "dataset"
        )


def _check_retain(retain_dataset: Any, args: UnlearnConfig) -> None:
    if retain_dataset is None:
        raise ValueError(
            "retain_dataset is missing: this method needs samples to keep, even if only a few dozen"
        )
    size = length_or_none(retain_dataset)
    if size is None:
        raise ValueError(
            "retain_dataset is a stream, but the retain batch of a step must not depend on what "
            "was read before: load the samples into a list or a Dataset"
        )
    if size == 0:
        raise ValueError(
            "retain_dataset is empty: give at least one sample to keep, or use "
            "method='gradient_ascent'"
        )
    check_retain_size(size, args.world_size)


# ---- the model and the arguments -----------------------------------------------------------------


def check_compatible(method: Method, trainer: RunView) -> None:
    """Checks that the method works with the model, the arguments and accelerate's set-up.

    Raises:
        ValueError: it does not.
    """
    args, model = trainer.args, trainer.model
    check_deepspeed(method, args, trainer.accelerator.state.deepspeed_plugin)
    if trainer.train_dataset is None:
        return
    _check_learning_rate(method, trainer)
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError(
            "no parameter of the model has requires_grad=True, so there is nothing to train: "
            "unfreeze some, or give a peft_config (to evaluate only, leave forget_dataset out)"
        )
    _check_arguments(trainer)
    refuse = partial(_refuse, args.method)
    method.check(model)
    check_temperature(model, args.loss_temperature)
    check_objective(args.forget_objective, method, model)
    check_limit(args.max_forget_loss, args.forget_objective, method)
    _check_shards(method, trainer, refuse)
    if args.step_control == "drift":
        _check_drift(method, trainer, refuse)
    if method.prepares is not None and trainer.model_init is not None:
        refuse(
            "model_init",
            "the method looks at the model before training starts, and then a new one is made",
            "Give model.",
        )
    if method.one_shot and args.fp16:
        refuse("fp16", "a gradient scaler needs a gradient, and there is none", "Set fp16=False.")
    if method.per_sample:
        _check_per_sample(model, args, refuse)


def _check_learning_rate(method: Method, trainer: RunView) -> None:
    """Refuses a learning rate of 0 in all steps, where Trainer itself makes the optimizer."""
    args, makes_own = trainer.args, type(trainer).create_optimizer is not Trainer.create_optimizer
    own_optimizer = trainer.optimizer is not None or trainer.optimizer_cls_and_kwargs
    if method.one_shot or own_optimizer or makes_own:
        return
    if args.learning_rate == 0:
        raise ValueError(
            "learning_rate is 0, so nothing would be forgotten: set it above 0 (to evaluate only, "
            "leave forget_dataset out)"
        )
    warms_up = args.lr_scheduler_type != "constant" and trainer.lr_scheduler is None
    if args.max_steps == 1 and warms_up and args.get_warmup_steps(1) > 0:
        raise ValueError(
            "max_steps is 1, but with warmup_steps the first step has the learning rate 0, so "
            "nothing would be forgotten: take more steps, or set warmup_steps to 0"
        )


def check_deepspeed(
    method: Method, args: UnlearnConfig, plugin: DeepSpeedPlugin | None = None
) -> None:
    """Checks a DeepSpeed configuration. Called before the Trainer is constructed, which would start
    DeepSpeed, and again after it, when accelerate knows its own configuration.

    Args:
        plugin: accelerate's, if it was launched with DeepSpeed.

    Raises:
        ValueError: the method or the ZeRO stage does not work with DeepSpeed.
    """
    plugin = plugin or args.deepspeed_plugin
    if plugin is None:
        return
    if method.edits_gradient:
        why = "its engine owns the gradients, and steps before a method could change them"
        _refuse(args.method, "DeepSpeed", why, USE_FSDP2)
    if plugin.zero_stage > deepspeed.MAX_STAGE:
        why = "weights in DeepSpeed's shards are not supported"
        _refuse(args.method, f"ZeRO stage {plugin.zero_stage}", why, USE_FSDP2)


def _check_arguments(trainer: RunView) -> None:
    """What no method works with."""
    args, accelerator = trainer.args, trainer.accelerator
    if args.label_smoothing_factor:
        _refuse_always(
            "label_smoothing_factor",
            "its loss averages over the tokens of the batch",
            "Set it to 0.",
        )
    if _checkpoints_without_end(trainer.model, args):
        _refuse_always(
            "re-entrant gradient checkpointing of WavLM",
            "its layers hand each other a position bias in a way that makes the backward pass call "
            "itself forever, in Trainer as well",
            "Set gradient_checkpointing_kwargs={'use_reentrant': False}.",
        )
    several = args.world_size > 1 or accelerator.is_fsdp2 or trainer.is_deepspeed_enabled
    if args.auto_find_batch_size and several:
        _refuse_always(
            "auto_find_batch_size with several processes, FSDP or DeepSpeed",
            "a process that runs out of memory would start again while the others wait for it",
            "Set it to False, and lower per_device_train_batch_size and "
            "per_device_retain_batch_size until they fit.",
        )
    streamed = length_or_none(trainer.train_dataset) is None
    if streamed and args.world_size > 1 and accelerator.dispatch_batches is False:
        _refuse_always(
            "dispatch_batches=False with an iterable forget_dataset on several processes",
            "each process would read the data by itself, and some would end while others wait for "
            "them",
            "Leave dispatch_batches out of accelerator_config, so that the main process reads for "
            "all.",
        )


def _check_drift(method: Method, trainer: RunView, refuse: Refuse) -> None:
    """What `step_control="drift"` does not work with."""
    if not (method.uses_forget and method.uses_retain) or method.one_shot:
        refuse(
            "step_control='drift'",
            "it measures both the forget and the retain batch of every step, and the method does "
            "not have both",
            "Set it to 'none'.",
        )
    if trainer.is_deepspeed_enabled:
        refuse(
            "step_control='drift' with DeepSpeed",
            "its engine steps before the step could be measured",
            "Set it to 'none'.",
        )


def _check_per_sample(model: nn.Module, args: UnlearnConfig, refuse: Refuse) -> None:
    """What methods with per-sample gradients do not work with."""
    if not args.freeze_batch_norm and any(isinstance(m, _BatchNorm) for m in model.modules()):
        refuse(
            "freeze_batch_norm=False",
            "samples would interact, so that none has a gradient of its own",
            "Set it to True.",
        )
    if args.n_gpu > 1:
        refuse(
            f"DataParallel on {args.n_gpu} GPUs",
            "it copies the parameters",
            "Start with `accelerate launch` or `torchrun`, or set CUDA_VISIBLE_DEVICES to one GPU.",
        )
    if args.torch_compile or any(map(_is_compiled, model.modules())):
        refuse(
            "torch_compile",
            "a compiled graph hides the layers, in which samples are told apart",
            "Set it to False, and give the model as it is before torch.compile.",
        )
    if args.use_liger_kernel:
        refuse(
            "use_liger_kernel",
            "its fused loss averages over the tokens of the batch",
            "Set it to False.",
        )


# ---- sharded models ------------------------------------------------------------------------------


def _check_shards(method: Method, trainer: RunView, refuse: Refuse) -> None:
    """Parameters must be sharded by FSDP2, through accelerate or by hand."""
    args, accelerator, model = trainer.args, trainer.accelerator, trainer.model
    launched = accelerator.distributed_type == DistributedType.FSDP
    wrapped = any(isinstance(module, FullyShardedDataParallel) for module in model.modules())
    if wrapped or launched and not accelerator.is_fsdp2:
        refuse(
            "FSDP1",
            "it flattens the parameters of a layer into one",
            "Use FSDP2 (fsdp_version: 2 in the configuration of accelerate, as in "
            "recipes/accelerate/fsdp2.yaml).",
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


def _check_sharded_by_accelerate(trainer: RunView, refuse: Refuse) -> None:
    """What does not work if accelerate shards the model."""
    if trainer.accelerator.mixed_precision == "fp16":
        refuse(
            "fp16 with FSDP",
            "its gradient scaler is not tested with sharded gradients",
            "Use bf16.",
        )


def _check_sharded_by_hand(trainer: RunView, sharded: Iterable[DTensor], refuse: Refuse) -> None:
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
            f"{precision} beside fully_shard",
            "FSDP2 itself casts the parameters",
            "Leave bf16 and fp16 off and call fully_shard(..., "
            "mp_policy=MixedPrecisionPolicy(torch.bfloat16)).",
        )


def _is_compiled(module: nn.Module) -> bool:
    return isinstance(module, OptimizedModule) or module._compiled_call_impl is not None


def _checkpoints_without_end(model: nn.Module, args: UnlearnConfig) -> bool:
    """Whether a model is a WavLM with re-entrant checkpoints: the bias is a keyword argument, which
    these do not detach from the graph of the layer before."""
    if getattr(getattr(model, "config", None), "model_type", "") != "wavlm":
        return False
    options = [args.gradient_checkpointing_kwargs if args.gradient_checkpointing else None]
    options += [
        getattr(module._gradient_checkpointing_func, "keywords", None)
        for module in model.modules()
        if getattr(module, "gradient_checkpointing", False)
    ]
    return any((of_one or {}).get("use_reentrant") for of_one in options)
