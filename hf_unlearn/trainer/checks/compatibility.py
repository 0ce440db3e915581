"""Refuses, when the trainer is constructed, models and arguments with which training would fail
later."""

from functools import partial

from accelerate.utils import DeepSpeedPlugin
from torch import nn
from torch._dynamo import OptimizedModule
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import Trainer

from ...config import UnlearnConfig
from ...methods import Method
from ..batches.training_data import length_or_none
from ..protocol import ModelView, RunView
from ..setup import deepspeed
from .forget_options import check_limit, check_objective, check_temperature, check_unheard_words
from .refusals import USE_FSDP2, Refuse, refuse_always, refuse_with_method
from .shard_checks import check_shards


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
    refuse = partial(refuse_with_method, args.method)
    method.check(model)
    check_temperature(model, args.loss_temperature)
    check_objective(args.forget_objective, method, model)
    check_unheard_words(args.unheard_words, args.forget_objective, args.step_control, model)
    check_limit(args.max_forget_loss, args.forget_objective, method)
    check_shards(method, trainer, refuse)
    if args.step_control == "drift":
        _check_drift(method, trainer, refuse)
    if method.prepares is not None and trainer.model_init is not None:
        refuse(
            "model_init",
            "the method prepares on one model, and model_init then makes another to be trained",
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
        refuse_with_method(args.method, "DeepSpeed", why, USE_FSDP2)
    if plugin.zero_stage > deepspeed.MAX_STAGE:
        why = "weights in DeepSpeed's shards are not supported"
        refuse_with_method(args.method, f"ZeRO stage {plugin.zero_stage}", why, USE_FSDP2)


def _check_arguments(trainer: RunView) -> None:
    """Refuses arguments that no method works with."""
    args, accelerator = trainer.args, trainer.accelerator
    if args.label_smoothing_factor:
        refuse_always(
            "label_smoothing_factor",
            "its loss averages over the tokens of the batch",
            "Set it to 0.",
        )
    if _checkpoints_without_end(trainer.model, args):
        refuse_always(
            "re-entrant gradient checkpointing of WavLM",
            "its layers hand each other a position bias in a way that makes the backward pass call "
            "itself forever, in Trainer as well",
            "Set gradient_checkpointing_kwargs={'use_reentrant': False}.",
        )
    several = args.world_size > 1 or accelerator.is_fsdp2 or trainer.is_deepspeed_enabled
    if args.auto_find_batch_size and several:
        refuse_always(
            "auto_find_batch_size with several processes, FSDP or DeepSpeed",
            "a process that runs out of memory would start again while the others wait for it",
            "Set it to False, and lower per_device_train_batch_size and "
            "per_device_retain_batch_size until they fit.",
        )
    streamed = length_or_none(trainer.train_dataset) is None
    if streamed and args.world_size > 1 and accelerator.dispatch_batches is False:
        refuse_always(
            "dispatch_batches=False with an iterable forget_dataset on several processes",
            "each process would read the data by itself, and some would end while others wait for "
            "them",
            "Leave dispatch_batches out of accelerator_config, so that the main process reads for "
            "all.",
        )


def _check_drift(method: Method, trainer: ModelView, refuse: Refuse) -> None:
    """Refuses what `step_control="drift"` does not work with."""
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
    """Refuses what methods with per-sample gradients do not work with."""
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
