"""A recipe's numbers belong to the split that they are named after."""

import pytest
import torch
from transformers import EvalPrediction

from hf_unlearn import UnlearnConfig, UnlearnTrainer
from hf_unlearn.data.speech import SpeechArguments
from hf_unlearn.evaluation import evaluate_splits
from hf_unlearn.experiments import Recipe, parse
from hf_unlearn.experiments.running import measurements
from hf_unlearn.experiments.running.measurements import measure
from hf_unlearn.experiments.speech.ctc import CtcRecipe
from hf_unlearn.experiments.speech.options import CtcArguments
from tests.recipes import recognisers
from tests.recipes.recognisers import flags
from tests.recipes.shadow_recipe import shadow_recipe


@pytest.fixture
def image_recipe(noise, tmp_path) -> Recipe:
    return shadow_recipe(noise, tmp_path, shadow_models=0, relearn_samples=0, attacks=False)


@pytest.fixture
def speech_recipe(data, cache, tmp_path) -> Recipe:
    torch.manual_seed(0)
    model = recognisers.saved(recognisers.wav2vec2, tmp_path / "model")
    arguments = flags(data, tmp_path / "out", model=model, attacks="false")
    return CtcRecipe.load(
        *parse((CtcArguments, SpeechArguments, UnlearnConfig), arguments), training=False
    )


def evaluate_splits_and_more(trainer: UnlearnTrainer, splits: dict) -> dict:
    """Also calls the metrics once more before each split, as a callback could, evaluates a split
    under another name, and the splits in another order."""
    numbers = {}
    for split in reversed(splits):
        rows = splits[split]
        with trainer.collecting_predictions() as predictions:
            trainer.evaluate(rows, metric_key_prefix="other")
        trainer.compute_metrics(predictions["other"])
        numbers |= evaluate_splits(trainer, {split: rows})
    return {split: numbers[split] for split in splits}


@pytest.mark.parametrize("kind", ["image_recipe", "speech_recipe"])
def test_numbers_keep_their_splits_whatever_else_is_evaluated(kind, request, monkeypatch):
    recipe = request.getfixturevalue(kind)
    trainer = recipe.evaluation_trainer(recipe.load_model(recipe.options.start))
    expected = measure(recipe, trainer, None)
    assert all(set(values) == set(trainer.eval_dataset) for values in expected.further.values())
    monkeypatch.setattr(measurements, "evaluate_splits", evaluate_splits_and_more)
    assert measure(recipe, trainer, None) == expected


def test_a_split_that_was_not_evaluated_has_no_numbers(image_recipe, monkeypatch):
    trainer = image_recipe.evaluation_trainer(image_recipe.load_model(None))
    expected = measure(image_recipe, trainer, None).further["per_class"]
    monkeypatch.setattr(
        measurements,
        "evaluate_splits",
        lambda trainer, splits: evaluate_splits(trainer, {"test": splits["test"]}),
    )
    measured = measure(image_recipe, trainer, None).further["per_class"]
    assert measured == {"test": expected["test"]} and expected["test"] != expected["forget"]


def test_predictions_are_those_that_the_metrics_get(image_recipe):
    trainer, metrics = image_recipe.evaluation_trainer(image_recipe.load_model(None)), []
    compute = trainer.compute_metrics

    def kept(evaluated: EvalPrediction) -> dict:
        metrics.append(evaluated)
        return compute(evaluated)

    trainer.compute_metrics = kept
    with trainer.collecting_predictions() as predictions:
        trainer.evaluate(trainer.eval_dataset["test"], metric_key_prefix="again")
        trainer.evaluate(trainer.eval_dataset["test"], metric_key_prefix="again")
    trainer.evaluate(trainer.eval_dataset["test"], metric_key_prefix="after")
    assert list(predictions) == ["again"] and len(metrics) == 3
    assert (predictions["again"].predictions == metrics[1].predictions).all()
    assert (predictions["again"].label_ids == metrics[1].label_ids).all()
