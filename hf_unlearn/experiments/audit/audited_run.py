"""Finds what an audit needs of a run: its recipe and its three models, from results.json, a YAML
file, or both."""

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from ...config import UnlearnConfig
from ...files.yaml_files import as_declared, read_yaml
from ...report.file_names import RESULTS
from ...report.results import Results
from ...trainer import load_merged
from ..loading import loading
from ..options import RecipeArguments
from ..recipe import Recipe
from ..recipe_kinds import kind_of, with_values

# The trainer's settings that an audit takes from the run.
TRAINER_SETTINGS = (
    "seed",
    "use_cpu",
    "learning_rate",
    "optim",
    "per_device_eval_batch_size",
    "dataloader_num_workers",
    "disable_tqdm",
    "name_forgotten",
    # The recipe checks its options against it.
    "forget_objective",
)
# The options that say what is forgotten, of which a configuration has one.
FORGOTTEN = ("forget_speakers", "forget_share", "forget_classes", "forget_samples", "forget_ids")


@dataclass(frozen=True)
class AuditedRun:
    """A run to audit.

    Attributes:
        folder: of the unlearned model; audit.json is written there.
        recipe: with data and processor.
        models: folder or Hub id of "unlearned" and "original", and of "retrained" if it is known.
        results: of the run; None for a model without results.json.
    """

    folder: Path
    recipe: Recipe
    models: dict[str, str]
    results: Results | None

    @property
    def tuning_rate(self) -> float:
        """The learning rate at which an audit fine-tunes with AdamW, unless its settings give one.

        It is a tenth of the run's own, if the run used an optimizer of the Adam family. The rates
        of others, such as SGD, cannot be compared. Then it is the rate at which the original was
        fine-tuned, or a tenth of that if the original was trained from the start.
        """
        options, args = self.recipe.options, self.recipe.args
        if "adam" in str(args.optim).lower():
            return args.learning_rate / 10
        return options.train_learning_rate / (1 if options.base_model else 10)

    def load(self, name: str) -> PreTrainedModel:
        """One of the models, in float32, with an adapter merged."""
        with loading(self.models[name]):
            model = load_merged(self.recipe.load_model, self.models[name])
        return model.to(self.recipe.args.device).eval()


def find_run(folder: Path, config: Path | None = None) -> AuditedRun:
    """The run whose output is in `folder`.

    Args:
        folder: of the unlearned model.
        config: YAML file of the run's configuration. Its values replace those in results.json; it
            is needed where there is no results.json.

    Raises:
        ValueError: the configuration or the original model cannot be found, or no recipe has this
            kind of model.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}: give the output_dir of a run, or a model")
    results = Results.read(folder) if (folder / RESULTS).is_file() else None
    if results is None and config is None:
        raise ValueError(
            f"{folder} has no {RESULTS}: give the run's configuration too, as in hf-unlearn audit "
            f"{folder} config.yaml"
        )
    settings = read_yaml(config) if config else {}
    check_known(results, settings, config)
    kind = kind_of(folder)
    declared = (kind.options, kind.data, UnlearnConfig)
    changed = as_declared(settings, declared, config) if config else {}
    groups = results.config if results else {}
    options = with_values(kind.options, groups.get("recipe", {}), changed)
    data = with_values(kind.data, groups.get("data", {}), changed)
    models = find_models(folder, results, options, changed)
    options.model, options.gold, options.evaluate = models["original"], "none", True
    kept = {
        name: value for name, value in groups.get("trainer", {}).items() if name in TRAINER_SETTINGS
    }
    kept |= {name: value for name, value in changed.items() if name in TRAINER_SETTINGS}
    args = UnlearnConfig(str(folder), report_to="none", **kept)
    return AuditedRun(folder, kind.load(options, data, args, training=False), models, results)


def check_known(results: Results | None, settings: dict, config: Path | None) -> None:
    """Refuses a run whose data cannot be loaded again.

    Raises:
        ValueError: it has no recipe, or its configuration does not say what was forgotten.
    """
    if results is not None and "recipe" not in results.config:
        raise ValueError(
            "this run has no recipe, so its data cannot be loaded again: give the configuration of "
            "a recipe for the same data"
        )
    if results is None and not any(settings.get(name) for name in FORGOTTEN):
        raise ValueError(
            f"{config} does not say what was forgotten: add the run's own value of one of "
            f"{', '.join(FORGOTTEN)}"
        )


def find_models(
    folder: Path, results: Results | None, options: RecipeArguments, changed: dict
) -> dict[str, str]:
    """Folder or Hub id of each model that exists.

    Raises:
        ValueError: there is no original model, or the unlearned one has replaced it.
    """
    recorded = (results.config.get("models") or {}) if results else {}
    outputs = [folder, *([Path(changed["output_dir"])] if "output_dir" in changed else [])]
    models = {"unlearned": str(folder)}
    for role, option in (("original", options.model), ("retrained", options.gold)):
        if option not in ("train", "none"):
            models[role] = option
            continue
        candidates = [Path(recorded[role])] if role in recorded else []
        candidates += [output / role for output in outputs]
        existing = next((path for path in candidates if path.is_dir()), None)
        if existing is not None and option != "none":
            models[role] = str(existing)
    if "original" not in models:
        raise ValueError(
            f"the original model is not in {folder / 'original'}: name its folder or Hub id as "
            "`model:` in a configuration (and that of the retrained model as `gold:`)"
        )
    if Path(models["original"]).resolve() == folder.resolve():
        raise ValueError(
            f"the original model was in {folder} itself, where the unlearned one has replaced it: "
            "name a copy of the original as `model:` in a configuration"
        )
    return models
