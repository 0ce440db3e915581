"""Adapters: which model one belongs to, merging it for a second request, and keeping the model that
a new one refers to."""

import filecmp
import itertools
import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from transformers.utils import find_adapter_config_file, logging

from .checkpoint_files import folder_written_whole
from .exchange import all_processes
from .leftovers import CONFIGS, FULL_WEIGHTS, weights_in

logger = logging.get_logger(__name__)

ORIGIN = "merged_from.json"


def base_of(name: str | None) -> str | None:
    """The model that an adapter (folder or Hub id) was trained on; None where `name` is no
    adapter."""
    if (
        name is None
        or find_adapter_config_file(name) is None
        or (Path(name) / "config.json").is_file()
    ):
        return None
    return PeftConfig.from_pretrained(name).base_model_name_or_path


def whole_base_of(name: str | None) -> str | None:
    """The model below all adapters, merged ones among them: `name` itself where it is none."""
    while (base := base_of(name) or _origin(name)) is not None:
        name = base
    return name


def _origin(name: str | None) -> str | None:
    """What a model that `keep_merged` has saved was made of."""
    note = Path(name or "") / ORIGIN
    return json.loads(note.read_text())["base_model"] if name and note.is_file() else None


def load_merged(load: Callable[[str], nn.Module], name: str | None) -> nn.Module:
    """Loads model `name` by `load`; an adapter is merged into its base, in float32, so that all
    weights can be trained."""
    base = base_of(name)
    if base is None:
        return load(name)
    model = load_merged(load, base).float()
    trained = {key for key, p in model.named_parameters() if p.requires_grad}
    model = PeftModel.from_pretrained(model, name).merge_and_unload()
    for key, p in model.named_parameters():  # peft has frozen them
        p.requires_grad_(key in trained)
    logger.warning(
        f"{name} is an adapter of {base}: it is merged, and unlearning goes on from there."
    )
    return model


def keep_merged(model: nn.Module, output_dir: str, *, main: bool) -> None:
    """Saves a model that a new adapter will refer to, and that is in no folder yet, into a folder
    inside output_dir.

    All processes call it; `main` says which of them writes.
    """
    weights = model.state_dict()

    def same(folder: Path) -> bool:
        saved = {
            name: t
            for path in folder.glob("model*.safetensors")
            for name, t in load_file(path).items()
        }
        close = {"rtol": 1e-5, "atol": 1e-7}  # merged on another machine
        return all(
            name in weights and torch.allclose(weights[name].cpu(), t, **close)
            for name, t in saved.items()
        )

    def write(folder: Path) -> None:
        model.save_pretrained(folder)
        (folder / ORIGIN).write_text(json.dumps({"base_model": model.name_or_path}))

    model.name_or_path = model.config._name_or_path = _kept(output_dir, same, write, main)


def check_base(model: nn.Module) -> None:
    """Warns where the folder that an adapter names as its base holds other weights than the model
    that it is trained on."""
    for config in getattr(model, "peft_config", {}).values():
        folder = Path(config.base_model_name_or_path or "")
        if not config.base_model_name_or_path or not folder.is_dir():
            continue
        here = {name.removeprefix("base_model.model.").replace(".base_layer.", "."): p for name, p in model.named_parameters() if ".base_layer." in name}  # fmt: skip
        for file in folder.glob("model*.safetensors"):
            with safe_open(file, framework="pt") as saved:
                found = {name: saved.get_tensor(name) for name in set(here) & set(saved.keys())}
            if any(
                not torch.allclose(here[name].detach().cpu().float(), t.float())
                for name, t in found.items()
            ):
                logger.warning(
                    f"{folder} holds other weights than the model that gets the adapter, and the "
                    "adapter will be loaded on "
                    "top of those: save the model first (save_pretrained), and load it from there."
                )
                return


def keep_base(model: nn.Module, output_dir: str, *, main: bool) -> None:
    """Where an adapter's base lies in output_dir, which the adapter is about to take over, its
    files are put into a folder inside it, and the adapter refers to that. All processes call it, as
    for `keep_merged`."""
    for config in getattr(model, "peft_config", {}).values():
        base = Path(config.base_model_name_or_path or "")
        inside = (
            bool(config.base_model_name_or_path) and base.is_dir() and base.samefile(output_dir)
        )
        files = [
            *weights_in(base, FULL_WEIGHTS),
            *(base / name for name in CONFIGS if (base / name).is_file()),
        ]
        if inside and files:
            config.base_model_name_or_path = _kept(
                output_dir, partial(_same, files), partial(_linked, files), main
            )


def _kept(
    output_dir: str, same: Callable[[Path], bool], write: Callable[[Path], None], main: bool
) -> str:
    """The folder in output_dir that holds a base model already, or gets it."""
    folder = None
    if main:
        places = (
            Path(output_dir) / f"base{number}"
            for number in itertools.chain([""], (f"-{n}" for n in itertools.count(2)))
        )
        folder = next(path for path in places if not path.exists() or same(path))
        if not folder.exists():
            with folder_written_whole(folder) as unfinished:
                write(unfinished)
            logger.warning(
                f"The model that the adapter in {output_dir} belongs to is kept in {folder}."
            )
    return all_processes(folder and str(folder))[0]


def _same(files: list[Path], folder: Path) -> bool:
    return all(
        (folder / f.name).is_file() and filecmp.cmp(f, folder / f.name, shallow=False)
        for f in files
    )


def _linked(files: list[Path], folder: Path) -> None:
    for file in files:
        _link(file, folder / file.name)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)
