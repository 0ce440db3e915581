"""What of a recipe's options can be refused before there is data, and what before a model is
trained."""

import contextlib
import copy
import gc
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub.errors import HFValidationError
from torch import nn

from ..config import UnlearnConfig
from ..methods import build_method
from ..trainer.adapter_checks import with_adapter
from ..trainer.adapters import load_merged
from ..trainer.seeded import random_state_kept
from ..trainer.stopping import Rule
from .options import RecipeArguments, ReferenceArguments

if TYPE_CHECKING:
    from ..trainer import UnlearnTrainer
    from .recipe import Recipe


MODELS = ("model", "gold", "base_model")


def check_options(arguments: Sequence) -> None:
    """Refuses what is wrong whatever the data are.

    Raises:
        ValueError: a method, rule, folder, regular expression or LoRA setting that cannot be; the
            message says which.
    """
    options = next((given for given in arguments if isinstance(given, RecipeArguments)), None)
    args = next((given for given in arguments if isinstance(given, UnlearnConfig)), None)
    if options is None or args is None:
        return
    for name in MODELS:
        _check_folder(name, getattr(options, name, None))
    if options.evaluate or any(isinstance(given, ReferenceArguments) for given in arguments):
        return
    build_method(args)
    for rule in filter(None, (args.stop_when, args.abort_when)):
        Rule.parse(rule)
        of_retrained(rule, options.gold)
    try:
        re.compile(options.trainable)
    except re.error as error:
        raise ValueError(
            f"trainable is {options.trainable!r}, which is no regular expression: {error}"
        ) from error
    if options.lora_r < 0:
        raise ValueError(f"lora_r is {options.lora_r}, but must be a rank, or 0 for no adapter")
    if options.lora_r and not options.lora_target_modules:
        raise ValueError(
            "lora_target_modules is empty: name the layers that get an adapter, such "
            "as q_proj v_proj"
        )


def _check_folder(option: str, name: str | None) -> None:
    """A name that can only be a folder's has to be there; others may be the Hub's."""
    is_path = name is not None and (
        name.startswith(("/", ".", "~")) or name.count("/") > 1 or "\\" in name
    )
    if is_path and not Path(name).is_dir():
        raise ValueError(f"{option} is {name!r}, but there is no such folder")


def of_retrained(rule: str | None, gold: str) -> str | None:
    """A rule with a number in place of the retrained model's value, which is not there yet.

    Raises:
        ValueError: there will be no retrained model.
    """
    if rule is None or not re.search(r"\bretrained\s*$", rule):
        return rule
    if gold == "none":
        raise ValueError(
            f"the rule {rule!r} needs the retrained model: set gold to 'train', a "
            "folder or a Hub id"
        )
    return re.sub(r"\bretrained\s*$", "0", rule)


@contextlib.contextmanager
def loading(name: str | None) -> Iterator[None]:
    """Says in one line which model, or what belongs to it, cannot be loaded. Raises ValueError."""
    try:
        yield
    except (OSError, HFValidationError) as error:
        raise ValueError(f"could not load {name!r}: {' '.join(str(error).split())}") from error


def check_model(recipe: "Recipe") -> None:
    """Refuses parameters, adapters and methods that do not fit the model, before features are made
    of the data."""
    from .frame import lora

    if not recipe.options.evaluate:
        with random_state_kept(recipe.args.device):
            model = first_model(recipe)
            config = lora(recipe.options, model, recipe.options.lora_r)
            build_method(recipe.args).check(
                model if config is None else with_adapter(model, config)
            )


def first_model(recipe: "Recipe") -> nn.Module:
    """The model that a run would start from, trained or not."""
    from .frame import freeze

    options = recipe.options
    name = options.base_model if options.model == "train" else options.model
    with loading(name):
        model = load_merged(recipe.load_model, name)
    freeze(model, options.trainable)
    return model


def first_trainer(recipe: "Recipe") -> "UnlearnTrainer":
    """The trainer that a run would have, of its first model: made so that what cannot work is
    refused before anything is trained. Random numbers go on as if it had not been made.

    Raises:
        ValueError: as `UnlearnTrainer`, and for rules, trainable parameters and adapters that do
            not fit.
    """
    from .frame import make_trainer

    options, args = recipe.options, copy.copy(recipe.args)
    args.push_to_hub, args.report_to = False, []
    args.stop_when, args.abort_when = (
        of_retrained(rule, options.gold) for rule in (args.stop_when, args.abort_when)
    )
    with random_state_kept(args.device):
        return make_trainer(recipe, first_model(recipe), args, lora_r=options.lora_r)


def check_run(recipe: "Recipe") -> None:
    """`first_trainer` for its refusals alone, where a model would be trained or measured before the
    run's own trainer is made. DeepSpeed serves one model, and its runs train none before."""
    if recipe.args.deepspeed_plugin is None and (
        recipe.options.trains or recipe.options.gold != "none"
    ):
        first_trainer(recipe)
        gc.collect()  # trainers hold themselves, and with them the model
