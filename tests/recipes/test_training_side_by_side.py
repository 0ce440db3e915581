"""The original and the retrained model are trained side by side, to the same weights as one after
the other."""

import pytest
import torch
from safetensors.torch import load_file

from hf_unlearn.experiments import threads
from hf_unlearn.experiments.models import side_by_side
from hf_unlearn.experiments.models.training import train
from hf_unlearn.experiments.options import RecipeArguments
from tests.recipes.shadow_recipe import shadow_recipe

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr(side_by_side, "FEWEST_STEPS", 2)
    monkeypatch.setattr(side_by_side, "cores", lambda: 2)
    if torch.cuda.is_available():
        pytest.skip("autograd's threads for GPUs do not go with copies of a process")


def test_both_models_are_those_that_are_trained_alone(noise, tmp_path):
    alone = shadow_recipe(noise, tmp_path / "alone", shadow_models=0)
    roles = ("original", "retrained")
    expected = {role: load_file(f"{train(alone, role)}/model.safetensors") for role in roles}
    state = torch.get_rng_state()
    names = side_by_side.model_names(shadow_recipe(noise, tmp_path / "both", shadow_models=0))
    # Unlearning goes on with these random numbers.
    assert torch.equal(torch.get_rng_state(), state)
    for role in roles:
        assert names[role] == str(tmp_path / "both" / role)
        weights = load_file(f"{names[role]}/model.safetensors")
        assert all(torch.equal(weights[name], tensor) for name, tensor in expected[role].items())
    assert not torch.equal(*(expected[role]["classifier.1.weight"] for role in roles))


def test_an_error_in_the_other_process_ends_the_run(noise, tmp_path, monkeypatch):
    def fails(recipe, role):
        if role == "original":
            raise ValueError("a bad sample")

    monkeypatch.setattr(side_by_side, "train", fails)
    with pytest.raises(ValueError, match="a bad sample"):
        side_by_side.model_names(shadow_recipe(noise, tmp_path, shadow_models=0))


@pytest.mark.parametrize(
    "changes",
    [
        {"gold": "none"},
        {"model": "out/somewhere"},
        {"train_steps": 1},
        {"threads": "2"},
        {"train_batch_size": 65},
    ],
)
def test_models_that_gain_nothing_are_trained_alone(noise, tmp_path, changes):
    recipe = shadow_recipe(noise, tmp_path, shadow_models=0)
    for name, value in changes.items():
        setattr(recipe.options, name, value)
    assert not side_by_side.can_train_side_by_side(recipe)
    assert side_by_side.model_names(recipe)["retrained"] == recipe.options.gold


def test_a_small_model_gets_one_thread(noise, tmp_path, monkeypatch):
    recipe = shadow_recipe(noise, tmp_path, shadow_models=0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    small, large = torch.nn.Linear(10, 10), torch.nn.Linear(2000, 1000)
    assert threads.number_of_threads(recipe, small, 64) == 1
    assert threads.number_of_threads(recipe, small, 65) == 8
    assert threads.number_of_threads(recipe, large, 1) == 8
    recipe.options.threads = "3"
    assert threads.number_of_threads(recipe, small, 1) == 3
    with pytest.raises(ValueError, match="threads is 'no', but must be auto or a number"):
        RecipeArguments(threads="no")
