"""Refuses models whose processors differ: one model would be evaluated on another's inputs or
labels."""

import json
from typing import Any

from transformers import PreTrainedTokenizerBase, ProcessorMixin
from transformers.feature_extraction_utils import FeatureExtractionMixin
from transformers.image_processing_base import ImageProcessingMixin
from transformers.utils import logging

from ...files import first_line
from ..recipe import Recipe

logger = logging.get_logger(__name__)

# The settings that inputs depend on. Other settings are class names, or tables that follow from
# these.
INPUTS = (
    *("size", "crop_size", "crop_pct", "do_resize", "do_center_crop", "do_rescale"),
    *("do_normalize", "do_convert_rgb", "image_mean", "image_std", "rescale_factor", "resample"),
    *("feature_size", "sampling_rate", "hop_length", "n_fft", "chunk_length", "num_mel_bins"),
    *("max_length", "dither"),
)


def check_processors(recipe: Recipe) -> None:
    """Compares the processors of `gold` and `base_model` with the run's.

    Raises:
        ValueError: one has another tokenizer or makes other inputs, or the labels of `gold` do not
            match.
    """
    options = recipe.options
    # For `model: train` the run's processor is that of base_model: nothing to compare.
    base = options.base_model if options.trains and options.model != "train" else None
    retrained = options.gold if options.gold not in ("none", "train") else None
    for option, name in (("gold", retrained), ("base_model", base)):
        if name is None or name == options.start:
            continue
        try:
            processor = recipe.processor_of(name)
        except Exception as error:
            # Of many types: no processor was saved, the Hub is offline, ...
            reason = first_line(error)
            logger.warning(
                f"{option}: {name} has no processor to compare, so the run's is assumed ({reason})"
            )
            continue
        if difference := describe_difference(recipe.processor, processor):
            alternative = ", or gold: train" if option == "gold" else ""
            raise ValueError(
                f"{option}: the processor of {name} differs from the run's "
                f"({options.start or 'made for its data'}): {difference}. Its results would not be "
                f"comparable; give a model that was trained with the same one{alternative}"
            )
    if retrained is not None and retrained != options.start:
        recipe.check_retrained(retrained)


def describe_difference(processor: object, other: object) -> str | None:
    """Says in words how two processors differ; None where both make the same inputs and labels."""
    for part, its in zip(_parts(processor), _parts(other)):
        if part is None or its is None:
            continue
        difference = (
            _of_tokenizers(part, its)
            if isinstance(part, PreTrainedTokenizerBase)
            else _of_inputs(part, its)
        )
        if difference:
            return difference
    return None


def _parts(processor: object) -> list:
    """Tokenizer, feature extractor and image processor; None for a missing one."""
    members = vars(processor).values() if isinstance(processor, ProcessorMixin) else [processor]
    kinds = PreTrainedTokenizerBase, FeatureExtractionMixin, ImageProcessingMixin
    return [next((part for part in members if isinstance(part, kind)), None) for kind in kinds]


def _of_tokenizers(
    tokenizer: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase
) -> str | None:
    """Added tokens, such as timestamps, may be missing from one of the two."""
    names, others = (
        {number: token for token, number in t.get_vocab().items()} for t in (tokenizer, other)
    )
    added = {*tokenizer.get_added_vocab().values(), *other.get_added_vocab().values()}
    for number in sorted(names.keys() | others.keys()):
        token, its = names.get(number), others.get(number)
        if token != its and not (None in (token, its) and number in added):
            there, here = ("missing" if text is None else repr(text) for text in (its, token))
            return f"another tokenizer, in which token {number} is {there} and not {here}"
    return None


def _of_inputs(
    processor: FeatureExtractionMixin | ImageProcessingMixin,
    other: FeatureExtractionMixin | ImageProcessingMixin,
) -> str | None:
    mine, its = (
        json.loads(json.dumps(part.to_dict(), default=_plain)) for part in (processor, other)
    )
    for name in INPUTS:
        if name in mine and name in its and mine[name] != its[name]:
            return f"its {name} is {its[name]} and not {mine[name]}"
    return None


def _plain(value: Any) -> dict | str:
    try:
        return dict(value)
    except (TypeError, ValueError):
        return str(value)
