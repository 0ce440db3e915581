"""Builds the recipe of a finished run again from its results.json."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from ...config import UnlearnConfig
from ...report.results import Results
from ...trainer.publishing.run_results import PRIVATE
from ...yaml_files import as_declared, read_yaml
from ..checks.push_checks import names_to_hide
from ..recipe import Recipe

# What a repetition does not do.
NOT_REPEATED = {"push_to_hub": False, "report_to": "none"}


def repeated_recipe(folder: Path, config: Path | None, output_dir: str) -> Recipe:
    """The recipe that the run in `folder` had, on the model that the run started from. It trains no
    other model.

    Args:
        config: YAML file whose values replace those of the run.
        output_dir: where the repetition writes.

    Raises:
        ValueError: the run was not one of this package's recipes, or a value of `config` is wrong.
    """
    results = Results.read(folder)
    kind, option_type, data_type = _kinds(results)
    given = read_yaml(config) if config else {}
    changed = as_declared(given, (option_type, data_type, UnlearnConfig), config) if config else {}
    groups = results.config
    options = _made(option_type, groups["recipe"], changed)
    data = _made(data_type, groups["data"], changed)
    kept = {name: value for name, value in groups["trainer"].items() if name not in PRIVATE}
    kept |= {"output_dir": output_dir, **NOT_REPEATED}
    if not kept.get("load_best_model_at_end"):
        kept["save_strategy"] = "no"
    args = _made(UnlearnConfig, kept, {})
    if options.model == "train" or "model" not in changed:
        options.model = (groups.get("models") or {}).get("original", options.model)
    options.gold, options.shadow_models, options.evaluate = "none", 0, False
    recipe = kind(options, data, args, training=False)
    args.hide_names = names_to_hide(recipe)
    return recipe


def _kinds(results: Results) -> tuple[type, type, type]:
    """The classes of a recipe, its options and its data. Each is imported only when it is needed:
    that takes time, and may warn of packages that only it needs."""
    recipe = results.config.get("recipe") or {}
    if results.task in ("classes", "samples") and recipe:
        from ...data.images.arguments import ImageArguments
        from ..images.options import ImageRecipeArguments
        from ..images.recipe import ImageRecipe

        return ImageRecipe, ImageRecipeArguments, ImageArguments
    if results.task == "speakers" and "chunk_length" in recipe:
        from ...data.speech.arguments import SpeechArguments
        from ..speech.options import WhisperArguments
        from ..speech.whisper import WhisperRecipe

        return WhisperRecipe, WhisperArguments, SpeechArguments
    if results.task == "speakers" and recipe:
        from ...data.speech.arguments import SpeechArguments
        from ..speech.ctc import CtcRecipe
        from ..speech.options import CtcArguments

        return CtcRecipe, CtcArguments, SpeechArguments
    if recipe:
        from ...data.speech.arguments import SpeechClassArguments
        from ..speech.class_options import SpeechClassRecipeArguments
        from ..speech.classes import SpeechClassRecipe

        return SpeechClassRecipe, SpeechClassRecipeArguments, SpeechClassArguments
    raise ValueError(
        "this run has no recipe, so it cannot be repeated from its results.json: run it again "
        "yourself, and compare the weights"
    )


def _made(kind: type, known: Mapping, changed: Mapping) -> object:
    """An instance with the values of a run, of which some are changed."""
    names, values = {one.name for one in fields(kind) if one.init}, {**known, **changed}
    return kind(**{name: value for name, value in values.items() if name in names})
