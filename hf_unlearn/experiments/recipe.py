"""What a recipe has of its own."""

import copy
import re

import datasets
from peft import LoraConfig
from torch import nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel

from ..config import UnlearnConfig
from ..trainer import UnlearnTrainer
from .options import RecipeArguments


class Recipe:
    """What a recipe has of its own; the functions of this file do with it what all recipes have in
    common.

    task: what is forgotten, a key of `TASKS`.
    options, args: the recipe's options and the trainer's.
    data: the data's options, a dataclass with the fields dataset and max_eval_samples.
    splits: the data, with the parts forget, forget_test, retain_pool and test; `splits.describe()`
        is what results.json says of it, `splits.evaluation(max_eval_samples)` what is evaluated.
    processor: what makes samples of the data, as models save it.
    forgotten_before: what the model has forgotten already, by the column of the data (see
        `earlier`).
    """

    task: str
    options: RecipeArguments
    args: UnlearnConfig
    data: object
    splits: object
    processor: object
    forgotten_before: dict = {}

    @property
    def training_seed(self) -> int:
        return self.args.seed if self.options.train_seed is None else self.options.train_seed

    def load_model(self, name: str | None) -> PreTrainedModel:
        """Loads model `name` (folder or Hub id), or builds a new one (None) with torch's random
        numbers."""
        raise NotImplementedError

    def processor_of(self, name: str):
        """The processor that is saved beside model `name` (folder or Hub id)."""
        return type(self.processor).from_pretrained(name)

    def check_gold(self, name: str) -> None:
        """Raises ValueError: the retrained model's labels mean something else than the run's."""

    def training_data(self, model: PreTrainedModel, rows: datasets.Dataset) -> Dataset:
        """Rows of the splits as a model is trained on them."""
        raise NotImplementedError

    def evaluation_data(self, model: PreTrainedModel, rows: datasets.Dataset) -> Dataset:
        """Rows of the splits as a model is evaluated on them."""
        raise NotImplementedError

    def trainer_arguments(self, model: PreTrainedModel) -> dict:
        """The arguments of `UnlearnTrainer` beside model, args and peft_config."""
        raise NotImplementedError

    def card_arguments(self) -> dict:
        """Further arguments of `build_card`."""
        return {}

    def audio(self, results: dict) -> dict[str, bytes]:
        """Sound files for the report's players, by the ids of `results["transcripts"]`."""
        return {}

    def measure(self, trainer: UnlearnTrainer) -> dict:
        """What is known of a model beside the metrics of its splits, by the keys of
        results.json."""
        return {}

    def plan(self) -> dict:
        """What `--dry_run` tells of the data and the models that only this recipe has."""
        return {}

    def finish(self, results: dict, trainer: UnlearnTrainer) -> None:
        """Adds to `results` what takes all three models, and to the output folder what only this
        recipe has."""

    def trainer_alone(self, model: nn.Module) -> UnlearnTrainer:
        """The trainer of a model that is evaluated, not unlearned."""
        args = copy.copy(self.args)
        args.stop_when, args.abort_when, args.push_to_hub = None, None, False
        # trackers would take its numbers for those of the model that is unlearned
        args.report_to = []
        return make_trainer(self, model, args, lora_r=0, forget_dataset=None, retain_dataset=None)


def make_trainer(
    recipe: Recipe, model: nn.Module, args: UnlearnConfig, lora_r: int, **changed
) -> UnlearnTrainer:
    arguments = {**recipe.trainer_arguments(model), **changed}
    return UnlearnTrainer(
        model=model, args=args, peft_config=lora(recipe.options, model, lora_r), **arguments
    )


def lora(options: RecipeArguments, model: nn.Module, r: int) -> LoraConfig | None:
    if not r:
        return None
    modules = adapted(model, options.lora_target_modules, options.trainable)
    return LoraConfig(r=r, lora_alpha=options.lora_alpha, target_modules=modules)


def adapted(model: nn.Module, targets: list[str], trainable: str) -> list[str]:
    """The layers that get an adapter: of those that `targets` names, those with a parameter whose
    name matches `trainable`.

    Raises:
        ValueError: there is none.
    """
    if not trainable:
        return targets
    found = [
        name
        for name, module in model.named_modules()
        if any(name == target or name.endswith(f".{target}") for target in targets)
        and any(
            re.search(trainable, f"{name}.{own}")
            for own, _ in module.named_parameters(recurse=False)
        )
    ]
    if not found:
        raise ValueError(
            f"trainable is {trainable!r}, which matches no layer of lora_target_modules "
            f"({', '.join(targets)}): name such "
            "layers there, or let trainable be ''"
        )
    return found


def freeze(model: nn.Module, trainable: str) -> None:
    """Leaves only the parameters trainable whose name matches. Raises ValueError where that leaves
    none."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and re.search(trainable, name) is not None)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            f"trainable is {trainable!r}, which matches no parameter, such as {name!r}"
        )
