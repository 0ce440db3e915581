"""The recipe of image classifiers that forget classes or single images: models, accuracies,
pictures."""

import copy
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np
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

from ..config import UnlearnConfig
from ..data.images.arguments import ImageArguments
from ..data.images.samples import ImageRows, Moved, decode_image, labels_of
from ..data.images.splits import load_image_splits, prepare_image_splits
from ..evaluation import classification_metrics, logits_of, relearning_steps
from ..metrics.quality import accuracy_of_classes
from ..metrics.scores import adaptive_unlearning_score, unlearning_impact_score
from ..report.plots import plot_pictures
from ..report.tasks import TASKS
from ..trainer import UnlearnTrainer
from .checks import loading
from .command_line import parse
from .earlier import forgotten_before
from .options import RecipeArguments
from .recipe import Recipe
from .run import unlearn
from .waiting import main_process_first

PICTURES = 8  # of each split


@dataclass
class ImageRecipeArguments(RecipeArguments):
    """Which classifier is built where none is loaded, how its training data is varied, and what is
    measured."""

    architecture: str = field(
        default="vit", metadata={"help": "New model: vit or resnet.", "choices": ["vit", "resnet"]}
    )
    image_size: int = field(
        default=32, metadata={"help": "New model: height and width of its input, in pixels."}
    )
    channels: int = field(default=3, metadata={"help": "New model: 1 for grey, 3 for RGB."})
    patch_size: int = field(
        default=4, metadata={"help": "New vit: height and width of a patch, in pixels."}
    )
    d_model: int = field(
        default=64, metadata={"help": "New model: width (resnet: channels of the first stage)."}
    )
    layers: int = field(
        default=4, metadata={"help": "New model: layers (resnet: blocks of each of three stages)."}
    )
    heads: int = field(default=4, metadata={"help": "New vit: attention heads."})
    init_std: float = field(
        default=0.02, metadata={"help": "New vit: standard deviation of the initial weights."}
    )
    train_shift: int = field(
        default=0,
        metadata={"help": "'train': pixels by which an image is moved at most, drawn each time."},
    )
    train_flip: bool = field(
        default=False, metadata={"help": "'train': mirrors half of the images, drawn each time."}
    )
    relearn_samples: int = field(
        default=0,
        metadata={
            "help": "Relearning speed: fine-tune a copy of each model on so many forget "
            "samples; 0: do not."
        },
    )
    relearn_steps: int = field(
        default=50, metadata={"help": "Relearning speed: steps after which it is given up."}
    )
    relearn_learning_rate: float = field(
        default=1e-4, metadata={"help": "Relearning speed: learning rate of AdamW."}
    )
    lora_target_modules: list[str] = field(
        default_factory=lambda: [
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "query",
            "key",
            "value",
            "dense",
        ],
        metadata={"help": "LoRA: names of the layers that get an adapter."},
    )

    _not_of_training = RecipeArguments._not_of_training | {
        "relearn_samples",
        "relearn_steps",
        "relearn_learning_rate",
    }


class ImageRecipe(Recipe):
    """Classes or single images, forgotten by an image classifier.

    training: whether a model is to be trained, which takes all training images.
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
        self.forgotten_before = forgotten_before(options.model)
        with main_process_first(args):  # the others find it in the cache
            splits = load_image_splits(data, args.seed, self.forgotten_before)
            self.splits = prepare_image_splits(splits, data, retain_pool=training)
        start = options.base_model if options.model == "train" else options.model
        self.processor = self._load_processor(start)

    def _load_processor(self, name: str | None):
        if name is not None:
            with loading(name):
                _check_timm(name)
                return AutoImageProcessor.from_pretrained(name)
        size, channels = self.options.image_size, self.options.channels
        return ViTImageProcessor(
            size={"height": size, "width": size},
            image_mean=[0.5] * channels,
            image_std=[0.5] * channels,
        )

    # ---- models -----------------------------------------------------------------------------------------------------

    def load_model(self, name: str | None) -> PreTrainedModel:
        """The base model gets a new head where its own does not fit the data's classes."""
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

    def _new_config(self):
        options = self.options
        if options.architecture == "resnet":
            widths = [options.d_model * 2**stage for stage in range(3)]
            return ResNetConfig(
                num_channels=options.channels, embedding_size=options.d_model, hidden_sizes=widths,
                depths=[options.layers] * 3, layer_type="basic", **self._labels(),
            )  # fmt: skip
        return ViTConfig(
            image_size=options.image_size, patch_size=options.patch_size, num_channels=options.channels,
            hidden_size=options.d_model, num_hidden_layers=options.layers, num_attention_heads=options.heads,
            intermediate_size=4 * options.d_model, initializer_range=options.init_std, **self._labels(),
        )  # fmt: skip

    def processor_of(self, name: str):
        return AutoImageProcessor.from_pretrained(name)

    def check_gold(self, name: str) -> None:
        start = self.options.base_model if self.options.model == "train" else self.options.model
        try:
            config, own = (
                AutoConfig.from_pretrained(given) if given else None for given in (name, start)
            )
        except OSError:  # an adapter's folder has none: loading the model says more
            return
        labels_of(self.splits.classes, config)  # refuses another number of them
        names = set(map(str, config.label2id))
        expected = [set(map(str, own.label2id))] if own else []
        unnamed = {f"LABEL_{label}" for label in range(len(names))}
        if not set(self.splits.classes) <= names and names not in [*expected, unnamed]:
            raise ValueError(
                f"gold: the labels of {name} ({', '.join(sorted(names)[:3])}, ...) are neither the "
                "data's classes "
                f"({', '.join(self.splits.classes[:3])}, ...) nor those of the model to unlearn: "
                "give a model that was trained "
                "on this data, or gold: train"
            )

    # ---- data -------------------------------------------------------------------------------------------------------

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

    def _rows(self, rows, model: PreTrainedModel, augment=None) -> ImageRows:
        labels = labels_of(self.splits.classes, model.config)
        return ImageRows(rows, self.processor, labels, _channels(model.config), augment)

    # ---- evaluation -------------------------------------------------------------------------------------------------

    def measure(self, trainer: UnlearnTrainer) -> dict:
        """Accuracy of each class and relearning speed of one model."""
        outputs = {name: trainer.predict(rows) for name, rows in trainer.eval_dataset.items()}
        outputs = {name: (logits_of(output), output.label_ids) for name, output in outputs.items()}
        self.outputs = outputs  # of the model measured last, which is the unlearned one
        config = trainer.accelerator.unwrap_model(trainer.model).config
        measured = {
            "per_class": {
                split: {
                    config.id2label[c]: rate
                    for c, rate in accuracy_of_classes(logits.argmax(1), labels).items()
                }
                for split, (logits, labels) in outputs.items()
            }
        }
        if self.options.relearn_samples:
            options, forget = self.options, trainer.eval_dataset["forget"]
            measured["relearning"] = {
                "steps": relearning_steps(
                    copy.deepcopy(trainer.accelerator.unwrap_model(trainer.model)),
                    default_data_collator(
                        [forget[row] for row in range(min(options.relearn_samples, len(forget)))]
                    ),
                    learning_rate=options.relearn_learning_rate,
                    max_steps=options.relearn_steps,
                )
            }
        return measured

    def finish(self, results: dict, trainer: UnlearnTrainer) -> None:
        results["scores"] = {
            model: scores(results["original"], results[model], whole_class=self.task == "classes")
            for model in ("unlearned", "retrained")
            if results[model]
        }
        if trainer.is_world_process_zero():
            self._draw_misread(trainer)

    def _draw_misread(self, trainer: UnlearnTrainer) -> None:
        """Some pictures of each split that the unlearned model reads as something else, and how
        many there are."""
        groups, names = {}, trainer.accelerator.unwrap_model(trainer.model).config.id2label
        for split, (logits, labels) in self.outputs.items():
            read = logits.argmax(1)
            wrong = (read != labels).nonzero()[0]
            if len(wrong):
                meaning, _ = TASKS[self.task].splits[split]
                shown = wrong[
                    np.linspace(0, len(wrong) - 1, min(PICTURES, len(wrong))).round().astype(int)
                ]
                images, channels = trainer.eval_dataset[split], trainer.eval_dataset[split].channels
                groups[f"{meaning} ({split}): {len(wrong)} of {len(labels)}"] = [
                    (
                        decode_image(images.rows[row]["image"], channels),
                        f"{names[labels[row]]} → {names[read[row]]}",
                    )
                    for row in shown.tolist()
                ]
        if groups:
            title = "Misread after unlearning: true class → what is read"
            plot_pictures(groups, Path(self.args.output_dir) / "misread.png", title)


def scores(original: dict, model: dict, *, whole_class: bool) -> dict[str, float | None]:
    """UIS and AUS; there is no UIS where the original model reads nothing."""
    accuracies = {
        "original_test": original["test"]["accuracy"],
        "test": model["test"]["accuracy"],
        "forget": model["forget"]["accuracy"],
        "whole_class": whole_class,
    }
    uis = unlearning_impact_score(**accuracies) if accuracies["original_test"] > 0 else None
    return {"uis": uis, "aus": adaptive_unlearning_score(**accuracies)}


def _fits(classes: list[str], name: str) -> bool:
    try:
        labels_of(classes, AutoConfig.from_pretrained(name))
    except ValueError:
        return False
    return True


def _check_timm(name: str) -> None:
    """Raises ValueError: a model of timm, where something is missing that timm needs."""
    config, _ = PreTrainedConfig.get_config_dict(name)
    missing = [package for package in ("timm", "torchvision") if find_spec(package) is None]
    if "pretrained_cfg" in config and missing:
        raise ValueError(
            f"{name} is a model of timm, which needs {' and '.join(missing)}: pip install timm "
            "torchvision"
        )


def _channels(config) -> int:
    """timm's models inside of transformers do not say; they take RGB."""
    return config.to_dict().get("num_channels", 3)


def main(argv: list[str]) -> None:
    """What the image recipes' `unlearn.py` do."""
    options, data, args = parse((ImageRecipeArguments, ImageArguments, UnlearnConfig), argv)
    unlearn(ImageRecipe(options, data, args, training=options.trains))
