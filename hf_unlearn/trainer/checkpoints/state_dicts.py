"""State dicts of models and optimizers whose parameters may be sharded (FSDP2), and the loading of
weights that Trainer's own loading leaves out."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from ...models import peft_configs
from ...per_sample.shards import copy_into, gather_to_main, own_parameters, split_like


def load_renamed(model: nn.Module, checkpoint: Path) -> None:
    """Loads weights that Trainer ignores because they are saved under other names.

    `save_pretrained` names layers as earlier versions of transformers did (ViT's
    `encoder.layer.0`). Trainer looks for today's names, warns, and goes on without these weights.
    """
    index, file = checkpoint / SAFE_WEIGHTS_INDEX_NAME, checkpoint / SAFE_WEIGHTS_NAME
    if not isinstance(model, PreTrainedModel) or not (index.exists() or file.exists()):
        return
    if index.exists():
        names = set(json.loads(index.read_text())["weight_map"])
    else:
        with safe_open(file, framework="pt") as tensors:
            names = set(tensors.keys())
    if not names <= set(model.state_dict()):
        loaded = type(model).from_pretrained(checkpoint, dtype=model.dtype)
        model.load_state_dict(loaded.state_dict())


def without_repeats(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict that holds tied weights once, under their first name, because safetensors
    refuses to save a tensor twice.

    `load_state_dict(..., strict=False)` and `safetensors.torch.load_model` restore the others.
    """
    first = {}
    for name, tensor in state_dict.items():
        # empty tensors have no address of their own
        storage = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        first.setdefault(storage if tensor.numel() else name, (name, tensor))
    return dict(first.values())


def whole_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of a sharded model as if it were not sharded. All processes must call this
    together."""
    own_parameters(model)
    tensors = model.state_dict(keep_vars=True)
    # by identity, so that tied weights stay tied
    different = {id(tensor): tensor for tensor in tensors.values()}
    whole = {key: gather_to_main(tensor) for key, tensor in different.items()}
    return {name: whole[id(tensor)] for name, tensor in tensors.items()}


def load_whole_weights(model: nn.Module, checkpoint: Path) -> None:
    """Fills a sharded model with the weights, or the adapter, of a checkpoint."""
    own_parameters(model)
    adapters = peft_configs(model)
    tensors = {}
    for name, tensor in model.state_dict().items():
        for adapter in adapters:
            # files omit the adapter's name
            name = name.replace(f".{adapter}.", ".")
        tensors[name] = tensor
    pattern = "adapter_model*.safetensors" if adapters else "model*.safetensors"
    for file in sorted(checkpoint.glob(pattern)):
        for name, whole in load_file(file).items():
            copy_into(tensors[name], whole)


def whole_optimizer_state(optimizer: torch.optim.Optimizer) -> dict:
    """The state dict of an optimizer of sharded parameters as if they were not sharded. All
    processes must call this together."""
    state_dict = optimizer.state_dict()
    state = {
        index: {
            key: gather_to_main(value) if isinstance(value, Tensor) else value
            for key, value in values.items()
        }
        for index, values in state_dict["state"].items()
    }
    return {**state_dict, "state": state}


def load_whole_optimizer_state(optimizer: torch.optim.Optimizer, state_dict: dict) -> None:
    """Loads the result of `whole_optimizer_state`, split over the present shards."""
    optimizer.load_state_dict(state_dict)
    for p, values in optimizer.state.items():
        values.update(
            (key, split_like(p, x))
            for key, x in values.items()
            if isinstance(x, Tensor) and x.shape == p.shape
        )
