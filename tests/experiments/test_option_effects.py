"""Runs share a model or a measurement only where no option that affects it differs."""

from dataclasses import dataclass, field, fields

import pytest

from hf_unlearn import UnlearnConfig
from hf_unlearn.experiments.images.options import ImageRecipeArguments
from hf_unlearn.experiments.measurement_cache import NOT_OF_TRAINER
from hf_unlearn.experiments.options import RecipeArguments
from hf_unlearn.experiments.speech.class_options import SpeechClassRecipeArguments
from hf_unlearn.experiments.speech.options import CtcArguments, WhisperArguments

KINDS = (CtcArguments, ImageRecipeArguments, SpeechClassRecipeArguments, WhisperArguments)
# What each option affects, once more: a new option needs its place here, too.
NEITHER = set(
    """
    model gold models_dir labels_from trainable limit_at_retrained augment forget_windows
    lora_r lora_alpha lora_target_modules merge_adapter keep_forgotten digest_steps
    threads dry_run evaluate dataset_hint recipe launch report_audio
    """.split()
)
MEASUREMENTS = set(
    """
    train_seed attacks shadow_models normalize
    relearn_samples relearn_steps relearn_learning_rate
    """.split()
)
BOTH = set(
    """
    base_model train_steps train_batch_size train_learning_rate train_warmup
    train_hidden_words train_shift train_flip train_seconds
    architecture d_model layers heads init_std dropout tokenizer max_target_positions
    chunk_length image_size channels patch_size
    """.split()
)


def names(kind: type) -> set[str]:
    return {option.name for option in fields(kind)}


@pytest.mark.parametrize("kind", KINDS)
def test_what_each_option_affects(kind):
    options = kind()
    assert options.of_training().items() <= vars(options).items()
    assert set(options.of_training()) == names(kind) & BOTH
    assert set(options.of_measurement()) == names(kind) & (BOTH | MEASUREMENTS)


def test_every_option_has_one_place():
    places = [*NEITHER, *MEASUREMENTS, *BOTH]
    assert sorted(places) == sorted(set().union(*map(names, KINDS)))


def test_an_option_that_does_not_say_what_it_affects_affects_both():
    @dataclass
    class Further(RecipeArguments):
        new: int = 1
        # It replaces an option that affects neither.
        lora_target_modules: list[str] = field(default_factory=list)

    options, further = Further(), {"new": 1, "lora_target_modules": []}
    assert options.of_training() == {**RecipeArguments().of_training(), **further}
    assert options.of_measurement() == {**RecipeArguments().of_measurement(), **further}


def test_measurements_depend_on_one_option_of_unlearning():
    """A new option of UnlearnConfig has to be named in NOT_OF_TRAINER or here."""
    assert names(UnlearnConfig) > NOT_OF_TRAINER
    added = names(UnlearnConfig) & set(UnlearnConfig.__annotations__)
    assert added - NOT_OF_TRAINER == {"freeze_batch_norm"}
