"""Cards and reports list the settings that shaped a result."""

from dataclasses import fields

from hf_unlearn import UnlearnConfig
from hf_unlearn.experiments.images.options import ImageRecipeArguments
from hf_unlearn.experiments.speech.class_options import SpeechClassRecipeArguments
from hf_unlearn.experiments.speech.options import CtcArguments, WhisperArguments
from hf_unlearn.report.listed_settings import SETTINGS, settings_of
from hf_unlearn.report.results import Results


def test_settings_are_those_that_shaped_the_result():
    recipe = {
        "trainable": "",
        "keep_forgotten": "none",
        "lora_r": 0,
        "lora_alpha": 64,
        "lora_target_modules": ["q_proj"],
    }
    trainer = {
        "method": "scrub",
        "alpha": 0.5,
        "granularity": "parameter",
        "method_kwargs": {"msteps": 1},
        "learning_rate": 1e-4,
        "max_steps": 60,
        "num_train_epochs": 3.0,
        "gradient_accumulation_steps": 1,
        "weight_decay": 0.0,
        "bf16": True,
        "step_control": "none",
        "max_drift": 0.02,
    }
    results = {
        "config": {"recipe": recipe, "trainer": trainer},
        "method_settings": {"temperature": 4.0, "msteps": 1},
    }
    assert settings_of(Results.from_dict(results)) == {
        "method": "scrub",
        "temperature": "4.0",
        "msteps": "1",
        "learning_rate": "0.0001",
        "max_steps": "60",
        "bf16": "True",
    }
    recipe["lora_r"], trainer["max_steps"] = 8, -1
    more = settings_of(Results.from_dict(results))
    assert (more["lora_r"], more["lora_target_modules"], more["num_train_epochs"]) == (
        "8",
        "q_proj",
        "3.0",
    )
    assert "max_drift" not in more
    recipe["keep_forgotten"] = "samples"
    assert settings_of(Results.from_dict(results))["keep_forgotten"] == "samples"
    trainer["step_control"] = "drift"
    controlled = settings_of(Results.from_dict(results))
    assert (controlled["step_control"], controlled["max_drift"]) == ("drift", "0.02")
    # results.json of an older version
    earlier = settings_of(Results.from_dict({**results, "method_settings": None}))
    assert earlier["method_kwargs"] == "{'msteps': 1}"
    assert settings_of(Results()) == {}


KINDS = (CtcArguments, ImageRecipeArguments, SpeechClassRecipeArguments, WhisperArguments)
# Why cards, reports and the ledger do not list a setting of unlearning.
UNLISTED = {
    "the original model, which results.json and the card name": "model",
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


def test_every_setting_of_unlearning_is_listed():
    """The settings by which a recipe trains and measures other models are not of unlearning."""
    of_unlearning = set(UnlearnConfig.__annotations__)
    for kind in KINDS:
        options = kind()
        names = {option.name for option in fields(options)}
        of_unlearning |= names - options.of_training().keys() - options.of_measurement().keys()
    unlisted = " ".join(UNLISTED.values()).split()
    assert sorted(of_unlearning - SETTINGS.keys()) == sorted(unlisted)
    # Unlearning reads its samples with these options of training, too.
    assert {"train_hidden_words", "train_shift", "train_seconds"} <= SETTINGS.keys()
