"""Sets up the model that a trainer is given: the adapter of `peft_config`, sharded parameters, and
the mode that it trains in."""

import difflib

from accelerate import Accelerator
from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from transformers.pytorch_utils import Conv1D

from ...config import UnlearnConfig
from ...files import one_line
from ...per_sample.shards import prepare_sharded, sharded_modules
from ..randomness import checkpoints_activations

ADAPTABLE = (nn.Linear, nn.Embedding, nn.modules.conv._ConvNd, Conv1D)
# How many layer names a message lists at most.
SHOWN = 12


def set_up_model(
    model: nn.Module | None, args: UnlearnConfig, peft_config: PeftConfig | None
) -> nn.Module | None:
    """The model to train, in an adapter if there is a `peft_config`; None if `model_init` is to
    make it.

    Raises:
        ValueError: it is not a model, or it cannot have that adapter.
    """
    if model is not None and not isinstance(model, nn.Module):
        raise ValueError(
            f"model is {model!r}, but must be a model: load it first, for example with "
            "AutoModel...from_pretrained"
        )
    if peft_config is not None:
        model = _add_adapter(model, args, peft_config)
    if model is not None and sharded_modules(model):
        prepare_sharded(model)
    return model


def save_whole_state_dicts(accelerator: Accelerator) -> None:
    """Tells accelerate, if it shards the model (FSDP2), to save whole state dicts, which
    from_pretrained can load."""
    if accelerator.is_fsdp2:
        accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")


def put_in_training_mode(
    model: nn.Module, freeze_batch_norm: bool, optimizer: Optimizer | None = None
) -> None:
    """Puts a model into training mode.

    Args:
        freeze_batch_norm: whether BatchNorm layers keep their running statistics.
        optimizer: schedule-free optimizers also have train and eval modes, as in Trainer.
    """
    model.train()
    for module in model.modules():
        if freeze_batch_norm and isinstance(module, _BatchNorm):
            module.eval()
    if callable(getattr(optimizer, "train", None)):
        optimizer.train()


def with_adapter(model: nn.Module, config: PeftConfig) -> PeftModel:
    """Adds a new adapter to a model and freezes everything else.

    Raises:
        ValueError: the adapter does not fit the model.
    """
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        reason = one_line(error)
        if "target" not in reason.lower():
            raise ValueError(
                f"peft refuses the adapter, so change peft_config: {reason}"
            ) from error
        # not all kinds of adapters have target modules
        wanted = getattr(config, "target_modules", None)
        wanted = sorted(wanted) if isinstance(wanted, set | list) else wanted
        raise ValueError(
            f"target_modules is {wanted!r}, which names no layer that can have an adapter: "
            f"{type(model).__name__} has {', '.join(_similar_layers(model, wanted))}"
        ) from error


def _add_adapter(
    model: nn.Module | None, args: UnlearnConfig, peft_config: PeftConfig
) -> PeftModel:
    """The model with a new adapter, of which only that is trained; sets the arguments that follow.

    Raises:
        ValueError: there is no model yet, it has an adapter already, or the adapter does not fit.
    """
    if model is None:
        raise ValueError(
            "peft_config needs model: with model_init, let it return the model with its adapter"
        )
    if isinstance(model, PeftModel) or getattr(model, "_hf_peft_config_loaded", False):
        raise ValueError(
            "the model has an adapter already, which would not be saved along with a new one. "
            "Either merge it first (PeftModel.from_pretrained(base, folder).merge_and_unload()), "
            "save the model and load it from there; or go on training it, without peft_config"
        )
    if args.gradient_checkpointing or checkpoints_activations(model):
        # Otherwise checkpoints cut off the graph before an adapter.
        model.enable_input_require_grads()
        if args.ddp_find_unused_parameters is None:
            # What Trainer chooses for models without an adapter.
            args.ddp_find_unused_parameters = False
    return with_adapter(model, peft_config)


def _similar_layers(model: nn.Module, wanted: str | list | None) -> list[str]:
    """Names of layers that can have an adapter: those similar to the wanted ones, else all."""
    layers = {
        name.rpartition(".")[2]: None
        for name, module in model.named_modules()
        if isinstance(module, ADAPTABLE)
    }
    asked = [wanted] if isinstance(wanted, str) else wanted or []
    similar = [
        name
        for word in asked
        for name in difflib.get_close_matches(word.rpartition(".")[2], layers, cutoff=0.5)
    ]
    names = list(dict.fromkeys(similar)) or list(layers)
    return names[:SHOWN] + (["..."] if len(names) > SHOWN else [])
