"""Rules, metrics and best models that no evaluation could serve are refused at construction."""

import pytest
import torch
from transformers import EvalPrediction

from hf_unlearn.evaluation import asr_metrics, classification_metrics
from hf_unlearn.experiments.speech.tiny_whisper import build_processor, build_word_tokenizer
from tests.support.tiny import (
    FORGET,
    images,
    make_trainer,
    tiny_whisper,
)
from tests.trainer.checks.image_trainers import SPLITS, image_trainer


@pytest.mark.parametrize(
    "rule, message",
    [
        ("forget_loss is high", "cannot read the rule"),
        ("forgotten_loss >= 3", "names no split of eval_dataset"),
        ("forget_acuracy <= 5", "evaluation will give .*forget_accuracy,"),
        ("empty_loss >= 3", "which is empty"),
        ("forget_loss >= test_accurate", "names 'test_accurate'"),
    ],
)
@pytest.mark.parametrize("option", ["stop_when", "abort_when"])
def test_a_rule_that_can_never_hold_is_refused_at_construction(tmp_path, option, rule, message):
    arguments = {"eval_dataset": {**SPLITS, "empty": []}, "compute_metrics": classification_metrics}
    with pytest.raises(ValueError, match=message):
        image_trainer(tmp_path, arguments, **{option: rule})


def test_without_compute_metrics_evaluation_gives_only_the_loss(tmp_path):
    with pytest.raises(ValueError, match="evaluation will give forget_loss"):
        image_trainer(tmp_path, {"eval_dataset": SPLITS}, stop_when="forget_accuracy <= 5")
    arguments = {"eval_dataset": SPLITS, "compute_metrics": lambda evaluated: {"f1": 1.0}}
    # whose names are unknown before it is called
    image_trainer(tmp_path, arguments, stop_when="forget_f1 <= 0.5")


def test_metrics_declare_their_names():
    logits, labels = torch.eye(3).numpy(), torch.arange(3).numpy()
    assert set(classification_metrics(EvalPrediction(logits, labels))) == set(
        classification_metrics.metric_names
    )


@pytest.fixture
def words():
    return build_processor(build_word_tokenizer(["one two"]), 1)


def test_texts_are_compared_only_where_texts_are_generated(tmp_path, words):
    metrics = {"compute_metrics": asr_metrics(words), "eval_dataset": {"forget": FORGET}}
    with pytest.raises(ValueError, match="WhisperFor.*: set predict_with_generate to True"):
        make_trainer(tiny_whisper(), tmp_path, arguments=metrics)
    make_trainer(tiny_whisper(), tmp_path, arguments=metrics, predict_with_generate=True)
    reduced = {**metrics, "preprocess_logits_for_metrics": lambda logits, _: logits[0].argmax(-1)}
    make_trainer(tiny_whisper(), tmp_path, arguments=reduced)
    with pytest.raises(ValueError, match="but ViTForImageClassification cannot generate"):
        image_trainer(tmp_path, {"eval_dataset": SPLITS}, predict_with_generate=True)


@pytest.mark.parametrize(
    "named, fits",
    [
        ("test_accuracy", True),
        ("eval_forget_loss", True),
        ("loss", False),
        (None, False),
        ("accuracy", False),
        ("eval_test_acuracy", False),
    ],
)
def test_a_best_model_needs_a_metric_that_evaluation_gives(tmp_path, named, fits):
    arguments = {"eval_dataset": SPLITS, "compute_metrics": classification_metrics}
    best = {"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps"}
    options = {**best, "eval_steps": 1, "save_steps": 1, "metric_for_best_model": named}
    if fits:
        image_trainer(tmp_path, arguments, **options)
        return
    with pytest.raises(ValueError, match="evaluation will give eval_forget_accuracy, .*eval_test_"):
        image_trainer(tmp_path, arguments, **options)
    if named:
        # a single eval set, or metrics whose names are unknown
        single = {**arguments, "eval_dataset": images(2)}
        if named in ("loss", "accuracy"):
            image_trainer(tmp_path, single, **options)
        without_metrics = {"eval_dataset": SPLITS, "compute_metrics": lambda evaluated: {}}
        if named == "eval_test_acuracy":
            image_trainer(tmp_path, without_metrics, **options)
