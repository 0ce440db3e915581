"""Measures a model: metrics of every split, membership attacks, and what the recipe adds."""

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from transformers.utils import logging

from ...evaluation import evaluate_splits, features_reducer
from ...files import write_json
from ...metrics.described_metrics import description_of
from ...report.file_names import EVALUATION
from ...report.result_tables import further_tables, results_table
from ...report.results import Results
from ...trainer import UnlearnTrainer
from ..loading import loading
from ..models.attack_models import attack
from ..models.shadow_models import ShadowModels, train_shadow_models
from ..recipe import Recipe

logger = logging.get_logger(__name__)

Value = TypeVar("Value")


@dataclass(frozen=True)
class Measurement:
    """The numbers of one model.

    Attributes:
        splits: {split: {metric: value}}.
        further: what else was measured, by its key in results.json ("attacks", "per_class", ...).
    """

    splits: dict[str, dict[str, float]]
    further: dict[str, dict]


def measure(recipe: Recipe, trainer: UnlearnTrainer, shadows: ShadowModels | None) -> Measurement:
    """Measures the trainer's model. Every process has to call it."""
    attacked = recipe.options.attacks and recipe.unseen_split is not None
    collecting = (
        trainer.collecting_logits(features_reducer(trainer))
        if attacked
        else contextlib.nullcontext({})
    )
    with recipe.clock.phase("evaluation"):
        with collecting as logit_features, trainer.collecting_predictions() as predictions:
            splits = evaluate_splits(trainer, trainer.eval_dataset)
        further = recipe.measure(trainer, by_split(predictions, trainer.eval_dataset))
    features = by_split(logit_features, trainer.eval_dataset)
    if recipe.options.attacks and recipe.unseen_split is None:
        logger.warning(
            "No membership attacks: there are no unseen samples like the forgotten ones "
            "(see held_out)."
        )
    elif recipe.options.attacks:
        with recipe.clock.phase("attacks"):
            further["attacks"] = attack(recipe, trainer, shadows, features)
    return Measurement(splits, further)


def by_split(collected: Mapping[str, Value], splits: Iterable[str]) -> dict[str, Value]:
    """What a trainer has collected during `evaluate_splits`, by the names of the splits."""
    return {split: collected[f"eval_{split}"] for split in splits if f"eval_{split}" in collected}


def evaluate(recipe: Recipe) -> dict:
    """Measures `model` alone, and writes and returns evaluation.json.

    The file goes into the model's folder, or into `output_dir` for a model of the Hub.

    Raises:
        ValueError: `model` is "train", or cannot be loaded.
    """
    options = recipe.options
    if options.model == "train":
        raise ValueError(
            "model is 'train', but only an existing model can be evaluated: give a folder or Hub id"
        )
    with recipe.clock.phase("shadow_models"):
        shadows = train_shadow_models(recipe)
    with loading(options.model):
        trainer = recipe.evaluation_trainer(recipe.load_model(options.model))
    measured = measure(recipe, trainer, shadows)
    notes = recipe.evaluation_notes()
    metrics = description_of(trainer.compute_metrics)
    results = {
        "task": recipe.task,
        "scale": metrics.scale,
        "model": options.model,
        "scoring": metrics.scoring,
        "phases": recipe.clock.phases,
        **notes,
        "evaluated": measured.splits,
        **{name: {"evaluated": values} for name, values in measured.further.items()},
    }
    if recipe.args.process_index == 0:
        folder = Path(options.model if Path(options.model).is_dir() else recipe.args.output_dir)
        write_json(folder / EVALUATION, results)
        shown = Results.from_dict(results)
        tables = filter(None, [results_table(shown), further_tables(shown)])
        sentences = [note["note"] for note in notes.values()]
        print("", *tables, *sentences, f"{EVALUATION} is in {folder}", sep="\n\n")
    return results
