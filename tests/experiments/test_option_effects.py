"""Runs share a model or a measurement only where no option that affects it differs.
Cards list every option that shapes the unlearned model."""

from dataclasses import dataclass, field, fields

import pytest

from hf_unlearn import UnlearnConfig
from hf_unlearn.config.option_effects import Affects, options_affecting
from hf_unlearn.experiments.images.options import ImageRecipeArguments
from hf_unlearn.experiments.measurement_cache import OPTIONS_OF_UNLEARNING
from hf_unlearn.experiments.options import RecipeArguments
from hf_unlearn.experiments.speech.class_options import SpeechClassRecipeArguments
from hf_unlearn.experiments.speech.options import CtcArguments, WhisperArguments
from hf_unlearn.report.listed_settings import SETTINGS

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


def test_measurements_depend_on_one_option_of_unlearning(tmp_path):
    added = names(UnlearnConfig) & set(UnlearnConfig.__annotations__)
    # the list names transformers' options alone, and none that it does not have
    assert names(UnlearnConfig) - added > OPTIONS_OF_UNLEARNING
    affecting = options_affecting(Affects.MEASUREMENTS, UnlearnConfig(str(tmp_path), use_cpu=True))
    assert added & set(affecting) == {"freeze_batch_norm"}


# Why cards, reports and the ledger do not list a setting that the unlearned model may depend on.
UNLISTED = {
    "the original model, which results.json and the card name": """
        model base_model train_steps train_batch_size train_learning_rate train_warmup train_flip
        architecture d_model layers heads init_std dropout tokenizer max_target_positions
        chunk_length image_size channels patch_size
    """,
    "the retrained model; what it decides is listed as max_forget_loss": "gold limit_at_retrained",
    "the labels, which results.json describes and the ledger's digests of the data cover": """
        labels_from
    """,
    "when the run stops, which is listed by its step and its rules": """
        stop_when abort_when check_steps check_samples max_skipped_steps
    """,
    "listed as a setting of the method": "method alpha granularity method_kwargs",
    "how values are computed; only their rounding depends on it": """
        inner_products frozen_cache_gb threads
    """,
    "how the models are stored": "models_dir merge_adapter save_update_sketch update_sketch_rank",
    "what a run writes or shows": """
        digest_steps dry_run evaluate dataset_hint recipe launch report_audio
        hide_names name_forgotten logging_steps
    """,
}


def test_every_setting_that_shapes_the_unlearned_model_is_listed():
    own = names(UnlearnConfig) & set(UnlearnConfig.__annotations__)
    shaping, unlisted = NEITHER | BOTH | own, " ".join(UNLISTED.values()).split()
    assert sorted(shaping - set(SETTINGS)) == sorted(unlisted)
