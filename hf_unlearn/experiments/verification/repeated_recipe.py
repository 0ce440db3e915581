"""Builds the recipe of a finished run again from its results.json."""

from pathlib import Path

from ...config import UnlearnConfig
from ...config.public_arguments import PRIVATE
from ...files.yaml_files import as_declared, read_yaml
from ...report.results import Results
from ..recipe import Recipe
from ..recipe_kinds import kind_of, with_values
from ..requests.run_arguments import completed_arguments

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
    groups = Results.read(folder).config
    if not groups.get("recipe"):
        raise ValueError(
            "this run has no recipe, so it cannot be repeated from its results.json: run it again "
            "yourself, and compare the weights"
        )
    kind = kind_of(folder)
    settings = read_yaml(config) if config else {}
    declared = (kind.options, kind.data, UnlearnConfig)
    changed = as_declared(settings, declared, config) if config else {}
    options = with_values(kind.options, groups["recipe"], changed)
    data = with_values(kind.data, groups["data"], changed)
    kept = {name: value for name, value in groups["trainer"].items() if name not in PRIVATE}
    kept |= {"output_dir": output_dir, **NOT_REPEATED}
    if not kept.get("load_best_model_at_end"):
        kept["save_strategy"] = "no"
    args = with_values(UnlearnConfig, kept, {})
    if options.model == "train" or "model" not in changed:
        options.model = (groups.get("models") or {}).get("original", options.model)
    options.gold, options.shadow_models, options.evaluate = "none", 0, False
    recipe = kind.load(options, data, args, training=False)
    return recipe.with_args(completed_arguments(recipe))
