"""Finds what an audit needs of a run: its recipe and its three models, from results.json, a YAML
file, or both."""

from dataclasses import dataclass, fields
from pathlib import Path

from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_CTC_MAPPING_NAMES,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
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
    check_known(results, given, config)
    kind, option_type, data_type = kind_of(folder)
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


def check_known(results: Results | None, given: dict, config: Path | None) -> None:
    """Refuses a run whose data cannot be loaded again.

    Raises:
        ValueError: it has no recipe, or its configuration does not say what was forgotten.
    """
    if results is not None and "recipe" not in results.config:
        raise ValueError(
            "this run has no recipe, so its data cannot be loaded again: give the configuration of "
            "a recipe for the same data"
        )
    if results is None and not any(given.get(name) for name in FORGOTTEN):
        raise ValueError(
            f"{config} does not say what was forgotten: it has none of {', '.join(FORGOTTEN)}"
        )


def kind_of(folder: Path) -> tuple:
    """The recipe's class and those of its options and data, by the saved model.

    Args:
        folder: of the model or of an adapter, whose base model is then looked at.

    Raises:
        ValueError: the audit does not support this kind of model.
    """
    whole = folder if (folder / "config.json").is_file() else whole_base_of(str(folder))
    with loading(str(whole)):
        config, _ = PreTrainedConfig.get_config_dict(str(whole))
    names = set(config.get("architectures") or ())
    for known, kind in KINDS:
        if names & architectures(known):
            return kind()
    # timm's models name their architecture in another way.
    if "pretrained_cfg" in config:
        return images()
    what = ", ".join(sorted(names)) or f"a {config.get('model_type', 'unknown')} model"
    raise ValueError(
        f"hf-unlearn audit cannot audit {what}: it knows speech recognisers (with a decoder or "
        "CTC) and classifiers of speech and of images"
    )


def architectures(known: dict[str, str | tuple[str, ...]]) -> set[str]:
    """The names in a table of transformers, where some kinds of models have several."""
    return {
        name for given in known.values() for name in ([given] if isinstance(given, str) else given)
    }


# Imported only when needed: each takes time, and may warn of packages that only it needs.


def seq2seq() -> tuple:
    from ...data.speech.arguments import SpeechArguments
    from ..speech.options import WhisperArguments
    from ..speech.whisper import WhisperRecipe

    return WhisperRecipe, WhisperArguments, SpeechArguments


def ctc() -> tuple:
    from ...data.speech.arguments import SpeechArguments
    from ..speech.ctc import CtcRecipe
    from ..speech.options import CtcArguments

    return CtcRecipe, CtcArguments, SpeechArguments


def audio_classes() -> tuple:
    from ...data.speech.arguments import SpeechClassArguments
    from ..speech.class_options import SpeechClassRecipeArguments
    from ..speech.classes import SpeechClassRecipe

    return SpeechClassRecipe, SpeechClassRecipeArguments, SpeechClassArguments


def images() -> tuple:
    from ...data.images.arguments import ImageArguments
    from ..images.options import ImageRecipeArguments
    from ..images.recipe import ImageRecipe

    return ImageRecipe, ImageRecipeArguments, ImageArguments


# Names of architectures, and the recipe for them.
KINDS = (
    (MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES, seq2seq),
    (MODEL_FOR_CTC_MAPPING_NAMES, ctc),
    (MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES, audio_classes),
    (MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES, images),
)


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
