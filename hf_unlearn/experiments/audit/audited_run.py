"""Finds what an audit needs of a run: its recipe and its three models, from results.json, a YAML
file, or both."""

from dataclasses import dataclass, fields
from pathlib import Path

from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_CTC_MAPPING_NAMES,
)

from ...config import UnlearnConfig
from ...report.results import Results
from ...report.run_layout import RESULTS
from ...trainer.setup.adapters import load_merged, whole_base_of
from ...yaml_files import as_declared, read_yaml
from ..checks.model_checks import loading
from ..recipe import Recipe

# The trainer's settings that measurements depend on.
TRAINER_SETTINGS = (
    "seed",
    "use_cpu",
    "learning_rate",
    "per_device_eval_batch_size",
    "dataloader_num_workers",
    "disable_tqdm",
    "name_forgotten",
)
# The tasks of the recipe for classifiers of speech.
AUDIO_CLASSES = ("speaker_classes", "speaker_data", "utterance_classes", "utterance_samples")


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
        ValueError: the configuration or the original model cannot be found, or an audit does not
            know this kind of model.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}: give the output_dir of a run, or a model")
    results = Results.read(folder) if (folder / RESULTS).is_file() else None
    if results is None and config is None:
        raise ValueError(
            f"{folder} has no {RESULTS}: give the run's configuration too, as in hf-unlearn audit "
            f"{folder} config.yaml"
        )
    given = read_yaml(config) if config else {}
    kind, option_type, data_type = kind_of(results, given, config)
    refuse_other_models(folder, of_speech="forget_speakers" in option_names(data_type))
    kinds = (option_type, data_type, UnlearnConfig)
    changed = as_declared(given, kinds, config) if config else {}
    groups = results.config if results else {}
    options = as_arguments(option_type, groups.get("recipe", {}), changed)
    data = as_arguments(data_type, groups.get("data", {}), changed)
    models = find_models(folder, results, options, changed)
    options.model, options.gold, options.evaluate = models["original"], "none", True
    kept = {
        name: value for name, value in groups.get("trainer", {}).items() if name in TRAINER_SETTINGS
    }
    kept |= {name: value for name, value in changed.items() if name in TRAINER_SETTINGS}
    args = UnlearnConfig(str(folder), report_to="none", **kept)
    return AuditedRun(folder, kind(options, data, args, training=False), models, results)


def kind_of(results: Results | None, given: dict, config: Path | None) -> tuple:
    """The recipe's class and those of its options and data."""
    if results is not None:
        if results.task in AUDIO_CLASSES:
            raise unknown("an audio classifier")
        if results.task not in ("speakers", "classes", "samples") or "recipe" not in results.config:
            raise ValueError(
                "this run has no recipe, so its data cannot be loaded again: give the "
                "configuration of a recipe for the same data"
            )
        return speech() if results.task == "speakers" else images()
    if "forget_speakers" in given:
        return speech()
    if any(name in given for name in ("forget_classes", "forget_samples", "forget_ids")):
        return images()
    raise ValueError(
        f"{config} does not say what was forgotten: it has none of forget_speakers, "
        "forget_classes, forget_samples and forget_ids"
    )


def unknown(what: str) -> ValueError:
    return ValueError(
        f"hf-unlearn audit cannot audit a run of {what} yet: it knows Whisper models and image "
        "classifiers"
    )


def refuse_other_models(folder: Path, *, of_speech: bool) -> None:
    """Refuses a saved model of a kind that no door can measure.

    Args:
        folder: of the model or of an adapter, whose base model is then looked at.
        of_speech: whether speakers are forgotten, so that only a Whisper will do.

    Raises:
        ValueError: it is neither a Whisper nor an image classifier.
    """
    whole = folder if (folder / "config.json").is_file() else whole_base_of(str(folder))
    with loading(str(whole)):
        config, _ = PreTrainedConfig.get_config_dict(str(whole))
    model_type, names = config.get("model_type", "unknown"), set(config.get("architectures") or ())
    if names & set(MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES.values()):
        raise unknown("an audio classifier")
    if names & set(MODEL_FOR_CTC_MAPPING_NAMES.values()):
        raise unknown("a CTC model")
    if of_speech and model_type != "whisper":
        raise unknown(f"a {model_type} model")


# Imported only when needed: each takes time, and may warn of packages that only it needs.


def speech() -> tuple:
    from ...data.speech.arguments import SpeechArguments
    from ..speech.options import WhisperArguments
    from ..speech.whisper import WhisperRecipe

    return WhisperRecipe, WhisperArguments, SpeechArguments


def images() -> tuple:
    from ...data.images.arguments import ImageArguments
    from ..images.options import ImageRecipeArguments
    from ..images.recipe import ImageRecipe

    return ImageRecipe, ImageRecipeArguments, ImageArguments


def as_arguments(kind: type, known: dict, changed: dict) -> object:
    """An instance with the values of a run, of which some are changed."""
    names, values = option_names(kind), {**known, **changed}
    return kind(**{name: value for name, value in values.items() if name in names})


def option_names(kind: type) -> set[str]:
    """The options of a dataclass."""
    return {one.name for one in fields(kind) if one.init}


def find_models(
    folder: Path, results: Results | None, options: object, changed: dict
) -> dict[str, str]:
    """Folder or Hub id of each model that exists.

    Raises:
        ValueError: there is no original model.
    """
    recorded = (results.config.get("models") or {}) if results else {}
    places = [folder, *([Path(changed["output_dir"])] if "output_dir" in changed else [])]
    found = {"unlearned": str(folder)}
    for role, given in (("original", options.model), ("retrained", options.gold)):
        if given not in ("train", "none"):
            found[role] = given
            continue
        candidates = [Path(recorded[role])] if role in recorded else []
        candidates += [place / role for place in places]
        existing = next((path for path in candidates if path.is_dir()), None)
        if existing is not None and given != "none":
            found[role] = str(existing)
    if "original" not in found:
        raise ValueError(
            f"the original model is not in {folder / 'original'}: name its folder or Hub id as "
            "`model:` in a configuration (and that of the retrained model as `gold:`)"
        )
    return found
