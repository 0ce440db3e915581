"""What the recipes of classifiers share, whether they see images or hear speech."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from ..data.class_labels import labels_of
from ..metrics.scores import adaptive_unlearning_score, unlearning_impact_score
from ..report.results import Results
from ..trainer import UnlearnTrainer
from .models.relearning_speed import relearning_steps
from .options import ClassifierArguments
from .recipe import Recipe


@dataclass(frozen=True)
class ClassifierModels:
    """Loads the models of a run.

    Attributes:
        auto_class: the Auto class of transformers that loads a model.
        base_model: one that may get a new head.
        new_config: gives the configuration of a new model from id2label and label2id.
        classes: the names of the data's classes, in the order of a new model's labels.
    """

    auto_class: Any
    base_model: str | None
    new_config: Callable[[dict], PreTrainedConfig]
    classes: list[str]

    def load(self, name: str | None) -> PreTrainedModel:
        """Loads or builds a classifier. A base model whose head does not fit the data's classes
        gets a new one."""
        if name is None:
            return self.auto_class.from_config(self.new_config(self._labels()))
        if name == self.base_model and not self._fits(name):
            return self.auto_class.from_pretrained(
                name, dtype=torch.float32, ignore_mismatched_sizes=True, **self._labels()
            )
        return self.auto_class.from_pretrained(name, dtype=torch.float32)

    def _labels(self) -> dict:
        return {
            "id2label": dict(enumerate(self.classes)),
            "label2id": {name: label for label, name in enumerate(self.classes)},
        }

    def _fits(self, name: str) -> bool:
        """Whether the head of model `name` has the data's classes."""
        try:
            labels_of(self.classes, AutoConfig.from_pretrained(name))
        except ValueError:
            return False
        return True


class ClassifierRecipe(Recipe):
    """A classifier forgets classes, single samples, or what it learned from a speaker.

    Attributes:
        models: loads the models of the run.
    """

    options: ClassifierArguments
    models: ClassifierModels

    @property
    def classes(self) -> list[str]:
        """The names of the data's classes, in the order of a new model's labels."""
        return self.models.classes

    # ---- models ----------------------------------------------------------------------------------

    def load_model(self, name: str | None) -> PreTrainedModel:
        return self.models.load(name)

    def check_retrained(self, name: str) -> None:
        start = self.options.start
        try:
            config, start_config = (
                AutoConfig.from_pretrained(model) if model else None for model in (name, start)
            )
        except OSError:
            # An adapter has no configuration. Loading the model reports errors.
            return
        # Raises where the number of labels differs.
        labels_of(self.classes, config)
        names = set(map(str, config.label2id))
        expected = [set(map(str, start_config.label2id))] if start_config else []
        unnamed = {f"LABEL_{label}" for label in range(len(names))}
        if not set(self.classes) <= names and names not in [*expected, unnamed]:
            some, classes = sorted(names)[:3], self.classes[:3]
            raise ValueError(
                f"gold: the labels of {name} ({', '.join(some)}, ...) are neither the data's "
                f"classes ({', '.join(classes)}, ...) nor those of the model to unlearn: give a "
                "model that was trained on this data, or gold: train"
            )

    # ---- evaluation ------------------------------------------------------------------------------

    def relearning(self, trainer: UnlearnTrainer) -> dict[str, dict]:
        """Relearning speed, for `measure`; {} if the options do not ask for it."""
        options, forget = self.options, trainer.eval_dataset["forget"]
        if not options.relearn_samples:
            return {}
        samples = [forget[row] for row in range(min(options.relearn_samples, len(forget)))]
        steps = relearning_steps(
            copy.deepcopy(trainer.accelerator.unwrap_model(trainer.model)),
            trainer.data_collator(samples),
            learning_rate=options.relearn_learning_rate,
            max_steps=options.relearn_steps,
        )
        return {"relearning": {"steps": steps}}


def scores(
    results: Results, *, whole_class: bool, test: str = "test"
) -> dict[str, dict[str, float | None]]:
    """The unlearning scores UIS and AUS of the unlearned and of the retrained model.

    UIS is None where the original model's test accuracy is 0.

    Args:
        test: the split of unseen samples that are kept.
    """
    original_test = results.models()["original"][test]["accuracy"]

    def of(model: dict) -> dict[str, float | None]:
        accuracies = {
            "original_test": original_test,
            "test": model[test]["accuracy"],
            "forget": model["forget"]["accuracy"],
            "whole_class": whole_class,
        }
        uis = unlearning_impact_score(**accuracies) if original_test > 0 else None
        return {"uis": uis, "aus": adaptive_unlearning_score(**accuracies)}

    return {model: of(splits) for model, splits in results.models().items() if model != "original"}
