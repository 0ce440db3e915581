"""Refuses options that cannot work: first without data, then before a model is trained."""

import gc
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn
from transformers import PreTrainedModel

from ...config import UnlearnConfig
from ...methods import build_method
from ...trainer import Rule, UnlearnTrainer, load_merged, random_state_kept, with_adapter
from ..loading import loading
from ..options import RecipeArguments, TrainArguments
from ..recipe import Recipe, freeze, lora_config, make_trainer
from ..requests.keeping import keeping_arguments
from ..requests.stacking import check_stacking
from .retrained_rules import assume_retrained_value, check_limit_at_retrained, with_assumed_values

# Loads a model by its folder or Hub id; None builds a new one (`Recipe.load_model`).
Load = Callable[[str | None], PreTrainedModel]
# One of these is in the folder of every model.
CONFIGURATIONS = ("config.json", "adapter_config.json")


def check_options(arguments: Sequence[object]) -> None:
    """Refuses values that cannot work with any data.

    Args:
        arguments: the parsed dataclasses. Nothing is checked unless a RecipeArguments and an
            UnlearnConfig are among them.

    Raises:
        ValueError: a method, stopping rule, folder, regular expression or LoRA setting is wrong;
            the message says which.
    """
    options = next((group for group in arguments if isinstance(group, RecipeArguments)), None)
    args = next((group for group in arguments if isinstance(group, UnlearnConfig)), None)
    if options is None or args is None:
        return
    for name in ("model", "gold", "base_model"):
        _check_folder(name, getattr(options, name), args.output_dir)
    for group in arguments:
        _check_data(group, options.dataset_hint)
    if options.evaluate or any(isinstance(group, TrainArguments) for group in arguments):
        return
    build_method(args)
    for rule in filter(None, (args.stop_when, args.abort_when)):
        Rule.parse(rule)
        assume_retrained_value(rule, options.gold)
    check_limit_at_retrained(options, args)
    _check_trainable(options, args)


def _check_folder(option: str, name: str | None, output_dir: str) -> None:
    """Refuses a missing folder, and one without a model. A name that could also be a Hub id is left
    to `loading`, unless it lies beside `output_dir`."""
    if name in (None, "train", "none"):
        return
    beside = "/" in name and Path(name).parent == Path(output_dir).parent
    if (_is_path(name) or beside) and not Path(name).is_dir():
        raise ValueError(
            f"{option} is {name!r}, but there is no such folder: give one with a model, or a Hub id"
        )
    if Path(name).is_dir() and not any((Path(name) / file).is_file() for file in CONFIGURATIONS):
        raise ValueError(
            f"{option} is {name!r}, which has no config.json: give a folder with a model"
        )


def _is_path(name: str) -> bool:
    """Whether a name cannot be a Hub id."""
    return name.startswith(("/", ".", "~")) or name.count("/") > 1 or "\\" in name


def _check_data(data: object, hint: str) -> None:
    """Refuses options of the data that need no data to be refused.

    Args:
        data: one of the parsed dataclasses, which may have none of these options.
        hint: how to get the dataset, for the message.
    """
    dataset, retain_size = getattr(data, "dataset", None), getattr(data, "retain_size", None)
    if retain_size is not None and retain_size <= 0 and retain_size != -1:
        raise ValueError(
            f"retain_size is {retain_size:g}: give a number, a share below 1, or -1 for all"
        )
    if hint and dataset and _is_path(dataset) and not Path(dataset).expanduser().exists():
        raise ValueError(f"there is no dataset {dataset} yet: {hint}")


def _check_trainable(options: RecipeArguments, args: UnlearnConfig) -> None:
    try:
        re.compile(options.trainable)
    except re.error as error:
        raise ValueError(
            f"trainable is {options.trainable!r}, which is not a regular expression: {error}"
        ) from error
    if options.lora_r < 0:
        raise ValueError(f"lora_r is {options.lora_r}, but must be a rank, or 0 for no adapter")
    if not options.merge_adapter:
        check_stacking(options, args.output_dir)
    if options.lora_r and not options.lora_target_modules:
        raise ValueError(
            "lora_target_modules is empty: name the layers that get an adapter, such as q_proj "
            "v_proj"
        )


def refuse_several_models(recipe: Recipe) -> None:
    """Refuses several models in one process under DeepSpeed, which supports only one."""
    options = recipe.options
    if recipe.args.deepspeed_plugin is None or not (options.trains or options.gold != "none"):
        return
    raise ValueError(
        f"DeepSpeed serves one model in a process, but model is {options.model!r}, gold is "
        f"{options.gold!r} and shadow_models is {options.shadow_models}: train the model before "
        "(model: a folder or Hub id), and leave the others out (gold: none, shadow_models: 0)"
    )


def check_model(options: RecipeArguments, args: UnlearnConfig, load: Load) -> None:
    """Refuses `trainable`, adapters and methods that do not fit the model. It needs no data, so it
    runs before features are computed."""
    if options.evaluate:
        return
    with random_state_kept(args.device):
        model = first_model(options, load)
        config = lora_config(options, model, options.lora_r)
        build_method(args).check(model if config is None else with_adapter(model, config))


def first_model(options: RecipeArguments, load: Load) -> nn.Module:
    """The model that the run starts from; for `model: train`, the untrained one."""
    with loading(options.start):
        model = load_merged(load, options.start)
    freeze(model, options.trainable)
    return model


def first_trainer(recipe: Recipe) -> UnlearnTrainer:
    """The run's trainer around `first_model`. Making it refuses what cannot work before anything is
    trained. The state of the random number generators is restored afterwards.

    Raises:
        ValueError: as `UnlearnTrainer`; or a stopping rule, `trainable` or an adapter does not fit.
    """
    options, args = recipe.options, with_assumed_values(recipe.args, recipe.options)
    args.push_to_hub, args.report_to = False, []
    with random_state_kept(args.device):
        model = first_model(options, recipe.load_model)
        kept = keeping_arguments(recipe, model)
        return make_trainer(recipe, model, args, lora_r=options.lora_r, **kept)


def check_run(recipe: Recipe) -> None:
    """Makes `first_trainer` only for its errors, if the run trains or measures another model before
    it makes its own trainer.

    DeepSpeed supports one model per process, so under it the run trains no other model first.
    """
    if recipe.args.deepspeed_plugin is None and (
        recipe.options.trains or recipe.options.gold != "none"
    ):
        first_trainer(recipe)
        # A trainer is part of reference cycles, which would keep the model in memory.
        gc.collect()
