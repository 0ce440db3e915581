"""Adapters of peft and the models they belong to: merges an adapter for a further request, and
keeps a copy of the base model that a new adapter refers to."""

import filecmp
import itertools
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from peft import PeftConfig, PeftModel
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from transformers.utils import find_adapter_config_file, logging

from ...files import link_or_copy
from ...models import peft_configs
from ...per_sample.shards import sharded_modules
from ..checkpoints.checkpoint_files import folder_written_whole
from ..checkpoints.weight_files import FULL_WEIGHTS, MODEL_CONFIGS, weights_in
from ..processes import all_processes
from ..protocol import ModelView

logger = logging.get_logger(__name__)

Model = TypeVar("Model", bound=nn.Module)

ORIGIN = "merged_from.json"


def base_of(name: str | None) -> str | None:
    """The model that an adapter (folder or Hub id) was trained on; None if it is not an adapter."""
    if name is None or find_adapter_config_file(name) is None:
        return None
    if (Path(name) / "config.json").is_file():
        return None
    return PeftConfig.from_pretrained(name).base_model_name_or_path


def whole_base_of(name: str | None) -> str | None:
    """The model below all adapters, merged ones included; `name` itself if it has none."""
    while (base := base_of(name) or _merged_from(name)) is not None:
        name = base
    return name


def _merged_from(name: str | None) -> str | None:
    """The base of a model that `keep_merged` has saved."""
    note = Path(name or "") / ORIGIN
    return json.loads(note.read_text())["base_model"] if name and note.is_file() else None


def load_merged(load: Callable[[str | None], Model], name: str | None) -> Model:
    """Loads a model. An adapter is merged into its base in float32, so that all weights can be
    trained.

    Args:
        load: loads a whole model by its name.
        name: a folder or Hub id, of a model or an adapter.
    """
    base = base_of(name)
    if base is None:
        return load(name)
    model = load_merged(load, base).float()
    trained = {key for key, p in model.named_parameters() if p.requires_grad}
    model = PeftModel.from_pretrained(model, name).merge_and_unload()
    # peft has frozen the base model's parameters
    for key, p in model.named_parameters():
        p.requires_grad_(key in trained)
    logger.warning(f"{name} is an adapter of {base}: merged it, and unlearning continues from it.")
    return model


def keep_merged(model: nn.Module, output_dir: str, *, main: bool) -> None:
    """Saves a merged model that a new adapter will refer to, into a folder inside output_dir,
    because it exists nowhere else. All processes must call it.

    Args:
        main: whether this process is the one that writes.
    """
    weights = model.state_dict()

    def same(folder: Path) -> bool:
        saved = {
            name: tensor
            for path in folder.glob("model*.safetensors")
            for name, tensor in load_file(path).items()
        }
        # merging on another machine rounds differently
        close = {"rtol": 1e-5, "atol": 1e-7}
        return all(
            name in weights and torch.allclose(weights[name].cpu(), tensor, **close)
            for name, tensor in saved.items()
        )

    def write(folder: Path) -> None:
        model.save_pretrained(folder)
        (folder / ORIGIN).write_text(json.dumps({"base_model": model.name_or_path}))

    folder = _kept_folder(output_dir, same, write, main)
    model.name_or_path = model.config._name_or_path = folder


def warn_if_base_differs(model: nn.Module) -> None:
    """Warns if the folder that an adapter names as its base holds other weights than the model it
    is trained on."""
    for config in peft_configs(model).values():
        folder = Path(config.base_model_name_or_path or "")
        if not config.base_model_name_or_path or not folder.is_dir():
            continue
        if _has_other_weights(folder, model):
            logger.warning(
                f"{folder} holds weights that differ from the model being trained, and the "
                "adapter will be loaded on top of those. Save the model first (save_pretrained), "
                "and load it from there."
            )
            return


def _has_other_weights(folder: Path, model: nn.Module) -> bool:
    """Whether the layers with an adapter have other weights in a folder than in the model."""
    adapted = {
        name.removeprefix("base_model.model.").replace(".base_layer.", "."): p
        for name, p in model.named_parameters()
        if ".base_layer." in name
    }
    for file in folder.glob("model*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            saved = {name: tensors.get_tensor(name) for name in set(adapted) & set(tensors.keys())}
        for name, tensor in saved.items():
            if not torch.allclose(adapted[name].detach().cpu().float(), tensor.float()):
                return True
    return False


def keep_base_model(trainer: ModelView) -> None:
    """If the base model of the trainer's adapter is in output_dir, keeps a copy of it. Warns if it
    is not the model below the adapter. All processes must call it."""
    model, args = trainer.model, trainer.args
    if not sharded_modules(model) and trainer.accelerator.is_main_process:
        warn_if_base_differs(model)
    if Path(args.output_dir).is_dir():
        keep_base(model, args.output_dir, main=args.should_save)


def keep_base(model: nn.Module, output_dir: str, *, main: bool) -> None:
    """If an adapter's base model lies in output_dir, where the adapter is about to be saved, keeps
    a copy in a folder inside it, and lets the adapter refer to the copy. All processes must call
    it.

    Args:
        main: whether this process is the one that writes.
    """
    for config in peft_configs(model).values():
        name = config.base_model_name_or_path
        base = Path(name or "")
        if not name or not base.is_dir() or not base.samefile(output_dir):
            continue
        configs = [base / name for name in MODEL_CONFIGS if (base / name).is_file()]
        if files := [*weights_in(base, FULL_WEIGHTS), *configs]:
            same, write = partial(_holds_copies, files), partial(_link_all, files)
            config.base_model_name_or_path = _kept_folder(output_dir, same, write, main)


def _kept_folder(
    output_dir: str, same: Callable[[Path], bool], write: Callable[[Path], None], main: bool
) -> str:
    """A folder in output_dir (base, base-2, ...) that holds a base model, written if needed.

    Args:
        same: whether an existing folder holds this model.
        write: writes the model into a new folder.
    """
    folder = None
    if main:
        names = itertools.chain(["base"], (f"base-{n}" for n in itertools.count(2)))
        folders = (Path(output_dir) / name for name in names)
        folder = next(path for path in folders if not path.exists() or same(path))
        if not folder.exists():
            with folder_written_whole(folder) as unfinished:
                write(unfinished)
            logger.warning(f"Saved the base model of the adapter in {output_dir} to {folder}.")
    return all_processes(folder and str(folder))[0]


def _holds_copies(files: list[Path], folder: Path) -> bool:
    return all(
        (folder / file.name).is_file() and filecmp.cmp(file, folder / file.name, shallow=False)
        for file in files
    )


def _link_all(files: list[Path], folder: Path) -> None:
    """Hard links, or copies on another file system."""
    for file in files:
        link_or_copy(file, folder / file.name)
