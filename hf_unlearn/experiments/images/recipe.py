"""The image recipe: a classifier forgets classes or single images."""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from datasets import Dataset
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    EvalPrediction,
    PreTrainedConfig,
    PreTrainedModel,
    ResNetConfig,
    ViTConfig,
    ViTImageProcessor,
    default_data_collator,
)
from transformers.image_processing_base import ImageProcessingMixin

from ...config import UnlearnConfig
from ...data.class_labels import labels_of
from ...data.images.image_arguments import ImageArguments
from ...data.images.samples import ImageRows, RandomShift, decode_image
from ...data.images.splits import ImageSplits, load_image_splits, prepare_image_splits
from ...evaluation import classification_metrics, prediction_logits
from ...metrics.quality import accuracy_of_classes
from ...metrics.sample_features import predicted_classes
from ...report.file_names import MISREAD
from ...report.phases import PhaseClock
from ...report.plots import plot_pictures
from ...report.results import Results
from ...report.tasks import TASKS
from ...trainer import UnlearnTrainer, spread
from ..classifier import ClassifierModels, ClassifierRecipe, scores
from ..command_line import parse
from ..history.earlier import RequestHistory, find_earlier
from ..loading import loading
from ..running.run import unlearn
from ..waiting import main_process_first, write_if_missing
from .options import ImageRecipeArguments

# The most images of each split in misread.png.
PICTURES = 8


class ImageRecipe(ClassifierRecipe):
    """An image classifier forgets classes or single images.

    Args:
        processor: the models' image processor.
        forgotten_before, earlier: see `Recipe`.
        clock: has measured the time of loading.
    """

    options: ImageRecipeArguments
    data: ImageArguments
    splits: ImageSplits

    def __init__(
        self,
        options: ImageRecipeArguments,
        data: ImageArguments,
        args: UnlearnConfig,
        *,
        processor: ImageProcessingMixin,
        splits: ImageSplits,
        forgotten_before: Mapping[str, list[str]],
        earlier: RequestHistory,
        clock: PhaseClock,
    ):
        self.options, self.data, self.args = options, data, copy.copy(args)
        self.args.label_names = ["labels"]
        single = bool(data.forget_samples or data.forget_ids)
        self.task = "samples" if single else "classes"
        # {split: (logits, labels)} of the model that was measured last
        self.outputs: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        new_config = partial(_new_config, options)
        self.models = ClassifierModels(
            AutoModelForImageClassification, options.base_model, new_config, splits.classes
        )
        self.processor, self.splits = processor, splits
        self.forgotten_before, self.earlier, self.clock = forgotten_before, earlier, clock

    @classmethod
    def load(
        cls,
        options: ImageRecipeArguments,
        data: ImageArguments,
        args: UnlearnConfig,
        *,
        training: bool,
    ) -> "ImageRecipe":
        """Loads the data and the processor.

        Args:
            training: whether the run trains a model, which needs all training images.
        """
        clock, start = PhaseClock(), options.start
        earlier = find_earlier(options.model, args.output_dir)
        # The other processes find the data in the cache.
        with clock.phase("loading"), main_process_first(args):
            unprepared = load_image_splits(data, args.seed, earlier.requests())
            splits = prepare_image_splits(unprepared, data, retain_pool=training)
        return cls(
            options,
            data,
            args,
            processor=new_processor(options) if start is None else load_processor(start),
            splits=splits,
            forgotten_before=earlier.names_with(unprepared),
            earlier=earlier,
            clock=clock,
        )

    # ---- models ----------------------------------------------------------------------------------

    def processor_of(self, name: str) -> ImageProcessingMixin:
        return AutoImageProcessor.from_pretrained(name)

    # ---- data ------------------------------------------------------------------------------------

    def training_data(self, model: PreTrainedModel, rows: Dataset) -> ImageRows:
        return self._rows(
            rows, model, RandomShift(self.options.train_shift, self.options.train_flip)
        )

    def evaluation_data(self, model: PreTrainedModel, rows: Dataset) -> ImageRows:
        return self._rows(rows, model)

    def collator(self, model: PreTrainedModel) -> Callable[[list], dict]:
        return default_data_collator

    def metrics(self) -> Callable[[EvalPrediction], dict]:
        return classification_metrics

    def _rows(
        self, rows: Dataset, model: PreTrainedModel, augment: RandomShift | None = None
    ) -> ImageRows:
        labels = labels_of(self.splits.classes, model.config)
        return ImageRows(rows, self.processor, labels, _channels(model.config), augment)

    # ---- evaluation ------------------------------------------------------------------------------

    def measure(
        self, trainer: UnlearnTrainer, predictions: Mapping[str, EvalPrediction]
    ) -> dict[str, dict]:
        """Accuracy of each class, and relearning speed."""
        # Kept from the model that is measured last, the unlearned one.
        self.outputs = {
            split: (prediction_logits(prediction), np.asarray(prediction.label_ids))
            for split, prediction in predictions.items()
        }
        names = trainer.accelerator.unwrap_model(trainer.model).config.id2label
        accuracies = {
            split: accuracy_of_classes(predicted_classes(logits), labels)
            for split, (logits, labels) in self.outputs.items()
        }
        measured = {
            "per_class": {
                split: {names[label]: rate for label, rate in by_class.items()}
                for split, by_class in accuracies.items()
            }
        }
        return measured | self.relearning(trainer)

    def finish(self, results: Results, trainer: UnlearnTrainer) -> None:
        results.scores = scores(results, whole_class=self.task == "classes")
        if trainer.is_world_process_zero():
            self._draw_misread(trainer)

    def _draw_misread(self, trainer: UnlearnTrainer) -> None:
        """Draws some images of each split that the unlearned model misclassifies."""
        names = trainer.accelerator.unwrap_model(trainer.model).config.id2label
        groups = {}
        for split, (logits, labels) in self.outputs.items():
            predicted = predicted_classes(logits)
            wrong = (predicted != labels).nonzero()[0]
            if not len(wrong):
                continue
            meaning, _ = TASKS[self.task].about(split)
            shown = wrong[spread(len(wrong), PICTURES)]
            images = trainer.eval_dataset[split]
            groups[f"{meaning} ({split}): {len(wrong)} of {len(labels)}"] = [
                (
                    decode_image(images.rows[row]["image"], images.channels),
                    f"{names[labels[row]]} → {names.get(predicted[row], 'no number')}",
                )
                for row in shown.tolist()
            ]
        if groups:
            title = "Misclassified after unlearning: true class → prediction"
            plot_pictures(groups, Path(self.args.output_dir) / MISREAD, title)


def _new_config(options: ImageRecipeArguments, labels: dict) -> PreTrainedConfig:
    """The configuration of a new model."""
    if options.architecture == "resnet":
        return ResNetConfig(
            num_channels=options.channels,
            embedding_size=options.d_model,
            hidden_sizes=[options.d_model * 2**stage for stage in range(3)],
            depths=[options.layers] * 3,
            layer_type="basic",
            **labels,
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
        **labels,
    )


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


def _channels(config: PreTrainedConfig) -> int:
    """The model's input channels: 3 for timm models, whose configuration does not say."""
    return config.to_dict().get("num_channels", 3)


def main(argv: list[str], write_data: Callable[[str], object] | None = None) -> None:
    """Runs the image recipe: the `main` of its `unlearn.py`.

    Args:
        write_data: writes the dataset to a folder; called if `dataset` does not exist yet. None:
            the dataset has to be there.
    """
    options, data, args = parse((ImageRecipeArguments, ImageArguments, UnlearnConfig), argv)
    if write_data is not None:
        write_if_missing(data.dataset, write_data, args)
    unlearn(ImageRecipe.load(options, data, args, training=options.needs_training_data))
