"""Runs share a model or a measurement only where no option that affects it differs."""

from dataclasses import dataclass, field, fields

import pytest

from hf_unlearn import UnlearnConfig
from hf_unlearn.experiments.options import RecipeArguments
from hf_unlearn.experiments.running.measurement_cache import OPTIONS_OF_UNLEARNING
from hf_unlearn.experiments.speech.options import WhisperArguments


@pytest.mark.parametrize(
    ("changed", "shares_models", "shares_measurements"),
    [
        ({"gold": "train"}, True, True),
        ({"lora_target_modules": ["fc1"]}, True, True),
        ({"forget_windows": 2}, True, True),
        ({"train_seed": 3}, True, False),
        ({"normalize": "none"}, True, False),
        ({"train_steps": 5}, False, False),
        ({"train_seconds": 2.0}, False, False),
        ({"d_model": 8}, False, False),
    ],
)
def test_what_runs_share_that_differ_in_an_option(changed, shares_models, shares_measurements):
    first, second = WhisperArguments(), WhisperArguments(**changed)
    assert (first.of_training() == second.of_training()) is shares_models
    assert (first.of_measurement() == second.of_measurement()) is shares_measurements


def test_an_option_that_does_not_say_what_it_affects_affects_both():
    @dataclass
    class Further(RecipeArguments):
        new: int = 1
        # It replaces an option that affects neither.
        lora_target_modules: list[str] = field(default_factory=list)

    options, further = Further(), {"new": 1, "lora_target_modules": []}
    assert options.of_training() == {**RecipeArguments().of_training(), **further}
    assert options.of_measurement() == {**RecipeArguments().of_measurement(), **further}


def test_measurements_depend_on_the_trainers_options_that_evaluate():
    names = {option.name for option in fields(UnlearnConfig)}
    assert names > OPTIONS_OF_UNLEARNING >= {"method", "check_steps", "learning_rate"}
    evaluating = {"seed", "per_device_eval_batch_size", "bf16_full_eval", "freeze_batch_norm"}
    assert names - OPTIONS_OF_UNLEARNING > evaluating
