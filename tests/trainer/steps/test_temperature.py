"""The temperature of the losses that a step forgets and keeps."""

import copy

import pytest
import torch

from hf_unlearn import UnlearnConfig
from tests.support.tiny import (
    FORGET,
    collate_images,
    images,
    make_trainer,
    tiny_vit,
    tiny_whisper,
)
from tests.trainer.brute_force import brute_force, relative, step


def divided_by(model: torch.nn.Module, temperature: float) -> torch.nn.Module:
    """The same model, whose logits are always divided."""
    model = copy.deepcopy(model)
    model.proj_out.register_forward_hook(lambda layer, inputs, logits: logits / temperature)
    return model


@pytest.mark.parametrize("granularity", ["parameter", "model"])
def test_step_is_that_of_divided_logits(granularity, tmp_path):
    torch.manual_seed(0)
    model = tiny_whisper()
    options = {"alpha": 0.3, "granularity": granularity}
    gradient = step(model, tmp_path, loss_temperature=3.0, **options)
    expected = brute_force(divided_by(model, 3.0), **options)
    assert relative(gradient, expected) < 1e-4
    assert relative(gradient, brute_force(model, **options)) > 0.1


def test_drift_is_that_of_the_same_loss(tmp_path):
    torch.manual_seed(0)
    model = tiny_whisper()
    options = {"step_control": "drift", "max_drift": 0.01, "learning_rate": 0.1}
    gradient = step(model, tmp_path, loss_temperature=3.0, **options)
    assert relative(gradient, step(divided_by(model, 3.0), tmp_path, **options)) < 1e-5


def test_evaluation_keeps_the_loss(tmp_path):
    torch.manual_seed(0)
    model = tiny_whisper()
    losses = [
        make_trainer(model, tmp_path, loss_temperature=value).evaluate(FORGET)["eval_loss"]
        for value in (1.0, 3.0)
    ]
    assert losses[0] == losses[1]


def test_a_model_without_output_embeddings_is_refused(tmp_path):
    data = {"forget": images(4, 1), "retain": images(4, 2), "collator": collate_images}
    with pytest.raises(ValueError, match="ViTForImageClassification has no output embeddings"):
        make_trainer(tiny_vit(), tmp_path, loss_temperature=3.0, **data)


@pytest.mark.parametrize("value", [0, -1, float("inf"), "warm"])
def test_a_temperature_is_a_positive_number(value):
    with pytest.raises(ValueError, match="loss_temperature is .*, but must be a number above 0"):
        UnlearnConfig(output_dir="out", loss_temperature=value)
