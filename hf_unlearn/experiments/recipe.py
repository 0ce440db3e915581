"""The base class of recipes, and how a recipe's model gets its trainer and adapter."""

import copy
import functools
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

import datasets
from peft import LoraConfig
from torch import nn
from torch.utils.data import Dataset
from transformers import EvalPrediction, PreTrainedModel, ProcessorMixin
from transformers.feature_extraction_utils import FeatureExtractionMixin
from transformers.image_processing_base import ImageProcessingMixin

from ..config import UnlearnConfig
from ..data.splits import Splits
from ..report.phases import PhaseClock
from ..report.results import Results
from ..trainer import UnlearnTrainer
from .history.earlier import RequestHistory
from .options import RecipeArguments

Processor = ProcessorMixin | FeatureExtractionMixin | ImageProcessingMixin


class RecipeData(Protocol):
    """What all recipes use of the data's options.

    Attributes:
        dataset: Hub id, folder or table.
        max_eval_samples: bounds each split that is evaluated; None for no bound.
    """

    dataset: str
    max_eval_samples: int | None


class Recipe:
    """What differs between recipes: data, models and their evaluation. `unlearn(recipe)` does the
    rest.

    Attributes:
        task: what is forgotten, a key of `TASKS`.
        options, args: the recipe's options and the trainer's.
        data: the data's options, a dataclass.
        splits: the data, with the parts `forget`, `forget_test`, `retain`, `retain_pool` and
            `test`. `splits.describe()` is what results.json says of it, `splits.evaluation(
            max_eval_samples)` are the splits to evaluate by name.
        processor: the model's processor; saved with the model.
        forgotten_before: the names that earlier requests made the model forget, by the column of
            the data.
        earlier: the earlier requests of the model.
    """

    task: str
    options: RecipeArguments
    args: UnlearnConfig
    data: RecipeData
    splits: Splits
    processor: Processor
    # All recipes share these defaults, so nobody may write to them.
    forgotten_before: Mapping[str, list[str]] = MappingProxyType({})
    earlier: RequestHistory = RequestHistory()

    # ---- what a recipe has to define -------------------------------------------------------------

    def load_model(self, name: str | None) -> PreTrainedModel:
        """Loads model `name` (folder or Hub id). None builds a new one, initialised with torch's
        random numbers."""
        raise NotImplementedError

    def training_data(self, model: PreTrainedModel, rows: datasets.Dataset) -> Dataset:
        """Rows of the splits in the form that trains a model."""
        raise NotImplementedError

    def evaluation_data(self, model: PreTrainedModel, rows: datasets.Dataset) -> Dataset:
        """Rows of the splits in the form that evaluates a model."""
        raise NotImplementedError

    def collator(self, model: PreTrainedModel) -> Callable[[list], dict]:
        """Makes a batch of samples in any of these forms."""
        raise NotImplementedError

    def metrics(self) -> Callable[[EvalPrediction], dict]:
        """The `compute_metrics` of evaluations."""
        raise NotImplementedError

    # ---- what a recipe may define ----------------------------------------------------------------

    def tuning_data(self, model: PreTrainedModel, rows: datasets.Dataset) -> Dataset:
        """Rows of the splits in the form that fine-tunes a model without augmentation."""
        return self.evaluation_data(model, rows)

    def unlearning_data(self, model: PreTrainedModel, rows: datasets.Dataset) -> Dataset:
        """Rows of the splits in the form that unlearning reads, which forget, retain and earlier
        samples share."""
        return self.evaluation_data(model, rows)

    def forget_data(self, model: PreTrainedModel) -> Dataset:
        """The forget set as unlearning reads it."""
        return self.unlearning_data(model, self.splits.forget)

    def retain_data(self, model: PreTrainedModel) -> Dataset:
        """The retain set as unlearning reads it."""
        return self.unlearning_data(model, self.splits.retain)

    def trainer_arguments(self, model: PreTrainedModel) -> dict:
        """The arguments of `UnlearnTrainer` besides model, args and peft_config."""
        evaluation = self.splits.evaluation(self.data.max_eval_samples)
        return {
            "forget_dataset": self.forget_data(model),
            "retain_dataset": self.retain_data(model),
            "eval_dataset": {
                name: self.evaluation_data(model, rows) for name, rows in evaluation.items()
            },
            "processing_class": self.processor,
            "data_collator": self.collator(model),
            "compute_metrics": self.metrics(),
        }

    def processor_of(self, name: str) -> Processor:
        """The processor that is saved with model `name` (folder or Hub id)."""
        return type(self.processor).from_pretrained(name)

    def check_retrained(self, name: str) -> None:
        """Raises ValueError where the labels of the retrained model do not match the run's."""

    def card_arguments(self) -> dict:
        """Further arguments of `build_card`."""
        return {}

    def audio(self, results: Results) -> dict[str, bytes]:
        """Sound files for the players in report.html, by the ids in `results.transcripts`."""
        return {}

    def measure(
        self, trainer: UnlearnTrainer, predictions: Mapping[str, EvalPrediction]
    ) -> dict[str, dict]:
        """What to measure besides the metrics of the splits, by the keys of results.json.

        Args:
            predictions: of each split of the trainer's `eval_dataset`, in the order of its rows.
        """
        return {}

    def measured_with(self) -> dict:
        """What measurements depend on besides the model, the evaluated rows and the options, in
        the types of JSON."""
        return {}

    def evaluation_notes(self) -> dict[str, dict]:
        """What evaluation.json says besides the numbers, by its keys. The text at "note" in each is
        printed."""
        return {}

    def plan(self) -> dict:
        """What `--dry_run` prints of the data and models that only this recipe has."""
        return {}

    def finish(self, results: Results, trainer: UnlearnTrainer) -> None:
        """Adds to `results` what needs the numbers of all models, and writes the files that only
        this recipe has."""

    # ---- what all recipes have -------------------------------------------------------------------

    @functools.cached_property
    def clock(self) -> PhaseClock:
        """Where the time and memory of the run go."""
        return PhaseClock()

    def with_args(self, args: UnlearnConfig) -> "Recipe":
        """The recipe with other arguments of the trainer. All else is shared, also the clock."""
        other = copy.copy(self)
        vars(other).update(args=args, clock=self.clock)
        return other

    @property
    def training_seed(self) -> int:
        """The seed of the models that the recipe trains."""
        return self.args.seed if self.options.train_seed is None else self.options.train_seed

    @property
    def unseen_split(self) -> str | None:
        """The split of unseen samples like the forgotten ones; None where there is none."""
        split = "test" if self.task == "samples" else "forget_test"
        return split if split in self.splits.evaluation() else None

    def evaluation_trainer(self, model: nn.Module) -> UnlearnTrainer:
        """A trainer that only evaluates a model."""
        args = copy.copy(self.args)
        args.stop_when, args.abort_when, args.push_to_hub = None, None, False
        # A tracker would show this model's numbers as those of the unlearned model.
        args.report_to = []
        return make_trainer(self, model, args, lora_r=0, forget_dataset=None, retain_dataset=None)


def make_trainer(
    recipe: Recipe, model: nn.Module, args: UnlearnConfig, lora_r: int, **changed: Any
) -> UnlearnTrainer:
    """The recipe's trainer for a model, with an adapter of rank `lora_r` (0: none).

    Args:
        changed: arguments of `UnlearnTrainer` in place of the recipe's.
    """
    arguments = {**recipe.trainer_arguments(model), **changed}
    config = lora_config(recipe.options, model, lora_r)
    return UnlearnTrainer(model=model, args=args, peft_config=config, **arguments)


def lora_config(options: RecipeArguments, model: nn.Module, rank: int) -> LoraConfig | None:
    """The adapter's configuration; None for rank 0."""
    if not rank:
        return None
    modules = adapted(model, options.lora_target_modules, options.trainable)
    return LoraConfig(r=rank, lora_alpha=options.lora_alpha, target_modules=modules)


def adapted(model: nn.Module, targets: list[str], trainable: str) -> list[str]:
    """The layers that get an adapter: those named by `targets` that have a parameter whose name
    `trainable` matches.

    Raises:
        ValueError: there is no such layer.
    """
    if not trainable:
        return targets
    layers = [
        name
        for name, module in model.named_modules()
        if any(name == target or name.endswith(f".{target}") for target in targets)
        and any(
            re.search(trainable, f"{name}.{parameter}")
            for parameter, _ in module.named_parameters(recurse=False)
        )
    ]
    if not layers:
        raise ValueError(
            f"trainable is {trainable!r}, which matches no layer of lora_target_modules "
            f"({', '.join(targets)}): name such layers there, or set trainable to ''"
        )
    return layers


def freeze(model: nn.Module, trainable: str) -> None:
    """Freezes all parameters whose names `trainable` does not match.

    Raises:
        ValueError: no parameter is left to train.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and re.search(trainable, name) is not None)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            f"trainable is {trainable!r}, which matches no parameter: names look like {name!r}"
        )
