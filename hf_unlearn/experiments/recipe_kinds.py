"""Knows which recipe a finished run belongs to, and makes the recipe's options again from those in
results.json."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple, TypeVar

from transformers import PreTrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_CTC_MAPPING_NAMES,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
)

from ..trainer import whole_base_of
from .loading import loading
from .options import RecipeArguments
from .recipe import Recipe

Options = TypeVar("Options")


class RecipeKind(NamedTuple):
    """What loads a recipe, and the classes of its options and its data."""

    load: Callable[..., Recipe]
    options: type[RecipeArguments]
    data: type


def kind_of(folder: Path) -> RecipeKind:
    """The kind of recipe that a saved model belongs to, by the model's architecture.

    Args:
        folder: of the model or of an adapter, whose base model is then looked at.

    Raises:
        ValueError: no recipe has this kind of model.
    """
    whole = folder if (folder / "config.json").is_file() else whole_base_of(str(folder))
    with loading(str(whole)):
        config, _ = PreTrainedConfig.get_config_dict(str(whole))
    names = set(config.get("architectures") or ())
    for architectures, kind in KINDS:
        if names & _architectures(architectures):
            return kind()
    # timm's models name their architecture in another way.
    if "pretrained_cfg" in config:
        return _images()
    what = ", ".join(sorted(names)) or f"a {config.get('model_type', 'unknown')} model"
    raise ValueError(
        f"no recipe is for {what}, which is in {whole}: they are for speech recognisers (with a "
        "decoder or CTC) and classifiers of speech and of images"
    )


def with_values(
    kind: type[Options], run_values: Mapping[str, object], changed: Mapping[str, object]
) -> Options:
    """An instance of an options class with the values of a run, some of them replaced. Values of
    other classes are left out."""
    names, values = {one.name for one in fields(kind) if one.init}, {**run_values, **changed}
    return kind(**{name: value for name, value in values.items() if name in names})


def _architectures(table: Mapping[str, str | tuple[str, ...]]) -> set[str]:
    """The names in a table of transformers, where some kinds of models have several."""
    return {
        name for entry in table.values() for name in ([entry] if isinstance(entry, str) else entry)
    }


# Imported only when needed: each takes time, and may warn of packages that only it needs.


def _whisper() -> RecipeKind:
    from ..data.speech.speech_arguments import SpeechArguments
    from .speech.options import WhisperArguments
    from .speech.whisper import WhisperRecipe

    return RecipeKind(WhisperRecipe.load, WhisperArguments, SpeechArguments)


def _ctc() -> RecipeKind:
    from ..data.speech.speech_arguments import SpeechArguments
    from .speech.ctc import CtcRecipe
    from .speech.options import CtcArguments

    return RecipeKind(CtcRecipe.load, CtcArguments, SpeechArguments)


def _speech_classes() -> RecipeKind:
    from ..data.speech.speech_arguments import SpeechClassArguments
    from .speech.class_options import SpeechClassRecipeArguments
    from .speech.classes import SpeechClassRecipe

    return RecipeKind(SpeechClassRecipe.load, SpeechClassRecipeArguments, SpeechClassArguments)


def _images() -> RecipeKind:
    from ..data.images.image_arguments import ImageArguments
    from .images.options import ImageRecipeArguments
    from .images.recipe import ImageRecipe

    return RecipeKind(ImageRecipe.load, ImageRecipeArguments, ImageArguments)


# transformers' tables of architectures, and the recipe for them.
KINDS = (
    (MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES, _whisper),
    (MODEL_FOR_CTC_MAPPING_NAMES, _ctc),
    (MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES, _speech_classes),
    (MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES, _images),
)
