"""The image recipe: a classifier forgets classes or single images."""

import copy
from importlib.util import find_spec
from pathlib import Path

import torch
from datasets import Dataset
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    PreTrainedConfig,
    PreTrainedModel,
    ResNetConfig,
    ViTConfig,
    ViTImageProcessor,
    default_data_collator,
)
from transformers.image_processing_base import ImageProcessingMixin

from ..config import UnlearnConfig
from ..data.images.arguments import ImageArguments
from ..data.images.samples import ImageRows, Moved, decode_image, labels_of
from ..data.images.splits import load_image_splits, prepare_image_splits
from ..evaluation import classification_metrics, prediction_logits, relearning_steps
from ..metrics.quality import accuracy_of_classes
from ..metrics.scores import adaptive_unlearning_score, unlearning_impact_score
from ..report.plots import plot_pictures
from ..report.results import Results
from ..report.run_layout import MISREAD
from ..report.tasks import TASKS
from ..trainer import UnlearnTrainer
from ..trainer.training_data import spread
from .checks import loading
from .command_line import parse
from .image_options import ImageRecipeArguments
from .previous_requests import forgotten_before
from .recipe import Recipe
from .run import unlearn
from .waiting import main_process_first

# The most images of each split in misread.png.
PICTURES = 8


class ImageRecipe(Recipe):
    """An image classifier forgets classes or single images.

    Args:
        training: whether the run trains a model, which needs all training images.
    """

    def __init__(
        self,
        options: ImageRecipeArguments,
        data: ImageArguments,
        args: UnlearnConfig,
        *,
        training: bool,
    ):
        self.options, self.data, self.args = options, data, args
        args.label_names = ["labels"]
        single = bool(data.forget_samples or data.forget_ids)
        self.task = "samples" if single else "classes"
        # {split: (logits, labels)} of the model that was measured last
        self.outputs: dict[str, tuple] = {}
        self.forgotten_before = forgotten_before(options.model)
        # The other processes find the data in the cache.
        with main_process_first(args):
            splits = load_image_splits(data, args.seed, self.forgotten_before)
            self.splits = prepare_image_splits(splits, data, retain_pool=training)
        start = options.base_model if options.model == "train" else options.model
        self.processor = new_processor(options) if start is None else load_processor(start)

    # ---- models ----

    def load_model(self, name: str | None) -> PreTrainedModel:
        """Loads or builds a classifier. A base model whose head does not fit the data's classes
        gets a new one."""
        if name is None:
            return AutoModelForImageClassification.from_config(self._new_config())
        if name == self.options.base_model and not _fits(self.splits.classes, name):
            return AutoModelForImageClassification.from_pretrained(
                name, dtype=torch.float32, ignore_mismatched_sizes=True, **self._labels()
            )
        return AutoModelForImageClassification.from_pretrained(name, dtype=torch.float32)

    def _labels(self) -> dict:
        names = self.splits.classes
        return {
            "id2label": dict(enumerate(names)),
            "label2id": {name: label for label, name in enumerate(names)},
        }

    def _new_config(self) -> PreTrainedConfig:
        options = self.options
        if options.architecture == "resnet":
            return ResNetConfig(
                num_channels=options.channels,
                embedding_size=options.d_model,
                hidden_sizes=[options.d_model * 2**stage for stage in range(3)],
                depths=[options.layers] * 3,
                layer_type="basic",
                **self._labels(),
            )
        return ViTConfig(
            image_size=options.image_size,
            patch_size=options.patch_size,
            num_channels=options.channels,
            hidden_size=options.d_model,
            num_hidden_layers=options.layers,
            num_attention_heads=options.heads,
            intermediate_size=4 * options.d_model,
            initializer_range=options.init_std,
            **self._labels(),
        )

    def processor_of(self, name: str) -> ImageProcessingMixin:
        return AutoImageProcessor.from_pretrained(name)

    def check_gold(self, name: str) -> None:
        start = self.options.base_model if self.options.model == "train" else self.options.model
        try:
            config, own = (
                AutoConfig.from_pretrained(given) if given else None for given in (name, start)
            )
        except OSError:
            # An adapter has no configuration. Loading the model reports errors.
            return
        # Raises where the number of labels differs.
        labels_of(self.splits.classes, config)
        names = set(map(str, config.label2id))
        expected = [set(map(str, own.label2id))] if own else []
        unnamed = {f"LABEL_{label}" for label in range(len(names))}
        if not set(self.splits.classes) <= names and names not in [*expected, unnamed]:
            some, classes = sorted(names)[:3], self.splits.classes[:3]
            raise ValueError(
                f"gold: the labels of {name} ({', '.join(some)}, ...) are neither the data's "
                f"classes ({', '.join(classes)}, ...) nor those of the model to unlearn: give a "
                "model that was trained on this data, or gold: train"
            )

    # ---- data ----

    def training_data(self, model: PreTrainedModel, rows: Dataset) -> ImageRows:
        return self._rows(rows, model, Moved(self.options.train_shift, self.options.train_flip))

    def evaluation_data(self, model: PreTrainedModel, rows: Dataset) -> ImageRows:
        return self._rows(rows, model)

    def trainer_arguments(self, model: PreTrainedModel) -> dict:
        evaluation = self.splits.evaluation(self.data.max_eval_samples)
        return {
            "forget_dataset": self._rows(self.splits.forget, model),
            "retain_dataset": self._rows(self.splits.retain, model),
            "eval_dataset": {name: self._rows(rows, model) for name, rows in evaluation.items()},
            "processing_class": self.processor,
            "data_collator": default_data_collator,
            "compute_metrics": classification_metrics,
        }

    def _rows(
        self, rows: Dataset, model: PreTrainedModel, augment: Moved | None = None
    ) -> ImageRows:
        labels = labels_of(self.splits.classes, model.config)
        return ImageRows(rows, self.processor, labels, _channels(model.config), augment)

    # ---- evaluation ----

    def measure(self, trainer: UnlearnTrainer) -> dict[str, dict]:
        """Accuracy of each class, and relearning speed."""
        outputs = {name: trainer.predict(rows) for name, rows in trainer.eval_dataset.items()}
        # Kept from the model that is measured last, the unlearned one.
        self.outputs = {
            name: (prediction_logits(output), output.label_ids) for name, output in outputs.items()
        }
        names = trainer.accelerator.unwrap_model(trainer.model).config.id2label
        measured = {
            "per_class": {
                split: {
                    names[label]: rate
                    for label, rate in accuracy_of_classes(logits.argmax(1), labels).items()
                }
                for split, (logits, labels) in self.outputs.items()
            }
        }
        if self.options.relearn_samples:
            measured["relearning"] = {"steps": self._relearning_steps(trainer)}
        return measured

    def _relearning_steps(self, trainer: UnlearnTrainer) -> int | None:
        options, forget = self.options, trainer.eval_dataset["forget"]
        samples = [forget[row] for row in range(min(options.relearn_samples, len(forget)))]
        return relearning_steps(
            copy.deepcopy(trainer.accelerator.unwrap_model(trainer.model)),
            default_data_collator(samples),
            learning_rate=options.relearn_learning_rate,
            max_steps=options.relearn_steps,
        )

    def finish(self, results: Results, trainer: UnlearnTrainer) -> None:
        results.scores = {
            model: scores(results.original, splits, whole_class=self.task == "classes")
            for model, splits in results.models().items()
            if model != "original"
        }
        if trainer.is_world_process_zero():
            self._draw_misread(trainer)

    def _draw_misread(self, trainer: UnlearnTrainer) -> None:
        """Draws some images of each split that the unlearned model misclassifies."""
        names = trainer.accelerator.unwrap_model(trainer.model).config.id2label
        groups = {}
        for split, (logits, labels) in self.outputs.items():
            predicted = logits.argmax(1)
            wrong = (predicted != labels).nonzero()[0]
            if not len(wrong):
                continue
            meaning, _ = TASKS[self.task].splits[split]
            shown = wrong[spread(len(wrong), PICTURES)]
            images = trainer.eval_dataset[split]
            groups[f"{meaning} ({split}): {len(wrong)} of {len(labels)}"] = [
                (
                    decode_image(images.rows[row]["image"], images.channels),
                    f"{names[labels[row]]} → {names[predicted[row]]}",
                )
                for row in shown.tolist()
            ]
        if groups:
            title = "Misclassified after unlearning: true class → prediction"
            plot_pictures(groups, Path(self.args.output_dir) / MISREAD, title)


def load_processor(name: str) -> ImageProcessingMixin:
    """The processor of model `name` (folder or Hub id).

    Raises:
        ValueError: it cannot be loaded, or it is a timm model and a package that it needs is
            missing.
    """
    with loading(name):
        config, _ = PreTrainedConfig.get_config_dict(name)
        missing = [package for package in ("timm", "torchvision") if find_spec(package) is None]
        if "pretrained_cfg" in config and missing:
            raise ValueError(
                f"{name} is a model of timm, which needs {' and '.join(missing)}: pip install timm "
                "torchvision"
            )
        return AutoImageProcessor.from_pretrained(name)


def new_processor(options: ImageRecipeArguments) -> ViTImageProcessor:
    """The processor of a new model."""
    size, channels = options.image_size, options.channels
    return ViTImageProcessor(
        size={"height": size, "width": size},
        image_mean=[0.5] * channels,
        image_std=[0.5] * channels,
    )


def scores(original: dict, model: dict, *, whole_class: bool) -> dict[str, float | None]:
    """The unlearning scores UIS and AUS. UIS is None where the original model's test accuracy is
    0."""
    accuracies = {
        "original_test": original["test"]["accuracy"],
        "test": model["test"]["accuracy"],
        "forget": model["forget"]["accuracy"],
        "whole_class": whole_class,
    }
    uis = unlearning_impact_score(**accuracies) if accuracies["original_test"] > 0 else None
    return {"uis": uis, "aus": adaptive_unlearning_score(**accuracies)}


def _fits(classes: list[str], name: str) -> bool:
    """Whether the head of model `name` has the data's classes."""
    try:
        labels_of(classes, AutoConfig.from_pretrained(name))
    except ValueError:
        return False
    return True


def _channels(config: PreTrainedConfig) -> int:
    """The model's input channels: 3 for timm models, whose configuration does not say."""
    return config.to_dict().get("num_channels", 3)


def main(argv: list[str]) -> None:
    """Runs the image recipe: the `main` of its `unlearn.py`."""
    options, data, args = parse((ImageRecipeArguments, ImageArguments, UnlearnConfig), argv)
    unlearn(ImageRecipe(options, data, args, training=options.trains))
