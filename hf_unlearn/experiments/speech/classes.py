"""The recipe for classifiers of speech: keywords or intents forget a speaker's data, speaker
identification forgets a speaker, and either forgets a class or single utterances."""

import copy
from collections.abc import Callable, Mapping
from functools import partial

import datasets
import numpy as np
from torch.utils.data import Dataset
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    EvalPrediction,
    PreTrainedModel,
    SequenceFeatureExtractor,
    WhisperConfig,
    WhisperFeatureExtractor,
)

from ...config import UnlearnConfig
from ...data.class_labels import labels_of
from ...data.speech.classes import UtteranceSplits, load_class_splits, prepare_class_splits
from ...data.speech.collator import SpeechCollator
from ...data.speech.extractors import shortest_audio
from ...data.speech.speech_arguments import SpeechClassArguments
from ...data.speech.splits import SpeakerSplits
from ...evaluation import f1_metrics, prediction_logits
from ...metrics.sample_features import predicted_classes
from ...metrics.scores import global_unlearning_metric
from ...report.phases import PhaseClock
from ...report.results import Results
from ...trainer import UnlearnTrainer, whole_base_of
from ..checks.model_checks import check_model
from ..classifier import ClassifierModels, ClassifierRecipe, scores
from ..command_line import parse
from ..history.earlier import RequestHistory, find_earlier
from ..loading import loading
from ..models.training import training_seconds
from ..running.run import unlearn
from ..waiting import main_process_first
from .class_options import SpeechClassRecipeArguments
from .tiny_whisper import POSITIONS_PER_SECOND

# The attack whose success the GUM compares.
GUM_ATTACK = "loss_auc"


class SpeechClassRecipe(ClassifierRecipe):
    """A classifier of speech forgets a speaker's data, a class, or single utterances.

    Args:
        models: loads the models of the run.
        processor: the models' feature extractor.
        splits: the data, with inputs.
        forgotten_before, earlier: see `Recipe`.
        clock: has measured the time of loading.
    """

    options: SpeechClassRecipeArguments
    data: SpeechClassArguments

    def __init__(
        self,
        options: SpeechClassRecipeArguments,
        data: SpeechClassArguments,
        args: UnlearnConfig,
        *,
        models: ClassifierModels,
        processor: SequenceFeatureExtractor,
        splits: SpeakerSplits | UtteranceSplits,
        forgotten_before: Mapping[str, list[str]],
        earlier: RequestHistory,
        clock: PhaseClock,
    ):
        self.options, self.data, self.args = options, data, copy.copy(args)
        self.args.label_names = ["labels"]
        self.task, self.models, self.processor, self.splits = _task(data), models, processor, splits
        self.forgotten_before, self.earlier, self.clock = forgotten_before, earlier, clock

    @classmethod
    def load(
        cls,
        options: SpeechClassRecipeArguments,
        data: SpeechClassArguments,
        args: UnlearnConfig,
        *,
        training: bool,
    ) -> "SpeechClassRecipe":
        """Loads the data and the feature extractor, and prepares the data for the models.

        Args:
            training: whether the run trains a model, which needs the inputs of all training
                utterances.
        """
        clock, start = PhaseClock(), options.start
        earlier = find_earlier(options.model, args.output_dir)
        processor = load_extractor(start) if start else new_extractor(options)
        with clock.phase("loading"), main_process_first(args):
            unprepared, classes = load_class_splits(data, args.seed, earlier.requests())
        new_config = partial(_new_config, options, processor)
        models = ClassifierModels(
            AutoModelForAudioClassification, options.base_model, new_config, classes
        )
        check_model(options, args, models.load)
        # The other processes find the inputs in the cache.
        with clock.phase("features"), main_process_first(args):
            splits = prepare_class_splits(
                unprepared,
                processor,
                data,
                classes,
                shortest=start and _shortest_audio(start, processor),
                retain_pool=training,
            )
        return cls(
            options,
            data,
            args,
            models=models,
            processor=processor,
            splits=splits,
            forgotten_before=earlier.names_with(unprepared),
            earlier=earlier,
            clock=clock,
        )

    # ---- models ----------------------------------------------------------------------------------

    def processor_of(self, name: str) -> SequenceFeatureExtractor:
        return AutoFeatureExtractor.from_pretrained(name)

    # ---- data ------------------------------------------------------------------------------------

    def training_data(self, model: PreTrainedModel, rows: datasets.Dataset) -> Dataset:
        return self._rows(rows, model)

    def evaluation_data(self, model: PreTrainedModel, rows: datasets.Dataset) -> Dataset:
        return self._rows(rows, model)

    def collator(self, model: PreTrainedModel) -> SpeechCollator:
        return SpeechCollator(self.processor)

    def metrics(self) -> Callable[[EvalPrediction], dict]:
        return f1_metrics

    def _rows(self, rows: datasets.Dataset, model: PreTrainedModel) -> "ClassRows":
        labels = labels_of(self.classes, model.config)
        in_order = [labels[name] for name in self.classes]
        return ClassRows(rows, in_order, self.processor.model_input_names)

    # ---- evaluation ------------------------------------------------------------------------------

    @property
    def unseen_split(self) -> str | None:
        """Unseen utterances like the forgotten ones; where a forgotten speaker has none, those of
        other speakers, as in UnSLU-BENCH."""
        candidates = ("test", "other")
        if self.task != "utterance_samples":
            candidates = ("forget_test", *(candidates if self.task == "speaker_data" else ()))
        present = self.splits.evaluation()
        return next((split for split in candidates if split in present), None)

    def measure(
        self, trainer: UnlearnTrainer, predictions: Mapping[str, EvalPrediction]
    ) -> dict[str, dict]:
        """Accuracy of each speaker and, unless the classes are speakers, of each class; the seconds
        of training; and relearning speed."""
        evaluated = self.splits.evaluation(self.data.max_eval_samples)
        # Speakers' names may only be in results that are redacted.
        columns = {
            "speaker_data": ("speaker", "class"),
            "speaker_classes": ("speaker",),
        }.get(self.task, ("class",))
        measured = {f"per_{column}": {} for column in columns}
        for split, prediction in predictions.items():
            correct = predicted_classes(prediction_logits(prediction)) == prediction.label_ids
            for column in columns:
                measured[f"per_{column}"][split] = _rates(correct, evaluated[split][column][:])
        model = trainer.accelerator.unwrap_model(trainer.model)
        seconds = training_seconds(model.name_or_path)
        return {**measured, "training": {"seconds": seconds}, **self.relearning(trainer)}

    def finish(self, results: Results, trainer: UnlearnTrainer) -> None:
        unseen = next(split for split in ("test", "other") if split in results.unlearned)
        whole_class = self.task in ("speaker_classes", "utterance_classes")
        by_model = scores(results, whole_class=whole_class, test=unseen)
        seconds = {"unlearned": {"seconds": _unlearning_seconds(trainer)}}
        results.training = {**(results.training or {}), **seconds}
        if results.retrained and results.attacks:
            by_model["unlearned"]["gum"] = _gum(results, unseen)
        results.scores = by_model


def _new_config(
    options: SpeechClassRecipeArguments, processor: SequenceFeatureExtractor, labels: dict
) -> WhisperConfig:
    """The configuration of a new model: a Whisper encoder with a head for classes."""
    return WhisperConfig(
        num_mel_bins=processor.feature_size,
        d_model=options.d_model,
        encoder_layers=options.layers,
        encoder_attention_heads=options.heads,
        encoder_ffn_dim=4 * options.d_model,
        max_source_positions=POSITIONS_PER_SECOND * options.chunk_length,
        classifier_proj_size=options.d_model,
        init_std=options.init_std,
        **labels,
    )


def _task(data: SpeechClassArguments) -> str:
    """The key of `TASKS` for what is forgotten."""
    if data.forgets_speakers:
        return "speaker_classes" if data.identifies_speakers else "speaker_data"
    return "utterance_samples" if data.forget_samples or data.forget_ids else "utterance_classes"


def _rates(correct: np.ndarray, groups: list[str]) -> dict[str, float]:
    """The accuracy (%) of each group."""
    groups = np.array(groups)
    return {
        name: 100 * float(correct[groups == name].mean()) for name in np.unique(groups).tolist()
    }


def _unlearning_seconds(trainer: UnlearnTrainer) -> float | None:
    """The seconds that unlearning took, with its checks."""
    times = [row["train_runtime"] for row in trainer.state.log_history if "train_runtime" in row]
    return times[-1] if times else None


def _gum(results: Results, test: str) -> float | None:
    """The GUM of the unlearned model; None where a time or the attack is not known."""
    models = ("unlearned", "original", "retrained")
    measured, times = results.attacks or {}, results.training or {}
    attacks = [measured[model].get(GUM_ATTACK) for model in models]
    seconds = [times[model]["seconds"] for model in ("unlearned", "retrained")]
    if None in attacks or None in seconds:
        return None
    return global_unlearning_metric(
        f1=results.models()["unlearned"][test]["f1_macro"],
        gold_f1=results.models()["retrained"][test]["f1_macro"],
        attack=attacks[0],
        original_attack=attacks[1],
        gold_attack=attacks[2],
        seconds=seconds[0],
        gold_seconds=seconds[1],
    )


class ClassRows(Dataset):
    """Prepared rows with the labels of a model's head.

    Args:
        rows: as `prepare_class_splits` gives them: their labels are indices of the classes.
        labels: the head's label of each class.
        inputs: the names of the model's inputs.
    """

    def __init__(self, rows: datasets.Dataset, labels: list[int], inputs: list[str]):
        self.rows, self.labels, self.inputs = rows, labels, inputs

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        row = self.rows[index]
        inputs = {name: row[name] for name in self.inputs if name in row}
        return {**inputs, "labels": self.labels[row["labels"]]}


def load_extractor(name: str) -> SequenceFeatureExtractor:
    """The feature extractor of model `name` (folder or Hub id).

    Raises:
        ValueError: it cannot be loaded.
    """
    with loading(name):
        return AutoFeatureExtractor.from_pretrained(whole_base_of(name))


def _shortest_audio(name: str, extractor: SequenceFeatureExtractor) -> float | None:
    """The shortest audio in seconds that model `name` takes."""
    with loading(name):
        return shortest_audio(extractor, AutoConfig.from_pretrained(whole_base_of(name)))


def new_extractor(options: SpeechClassRecipeArguments) -> WhisperFeatureExtractor:
    """The feature extractor of a new model."""
    return WhisperFeatureExtractor(chunk_length=options.chunk_length)


def main(argv: list[str]) -> None:
    """Runs the recipe: the `main` of its `unlearn.py`."""
    options, data, args = parse(
        (SpeechClassRecipeArguments, SpeechClassArguments, UnlearnConfig), argv
    )
    unlearn(SpeechClassRecipe.load(options, data, args, training=options.needs_training_data))
