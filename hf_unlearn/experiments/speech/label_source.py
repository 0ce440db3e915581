"""Which model the labels of a speech run are written by: the one that is to forget, never the one
that has forgotten.

An unlearned model that transcribed the utterances itself would set its own target.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import AutoProcessor, PreTrainedModel, ProcessorMixin
from transformers.utils import logging

from ...trainer import load_merged
from ..checks.processor_checks import describe_difference
from ..history.from_results import results_of
from ..loading import loading
from .options import RecogniserArguments

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class LabelSource:
    """The model whose own transcripts and style the labels follow.

    Attributes:
        name: folder or Hub id; None for a new model, which has no style.
        why: what this model is, for readers.
    """

    name: str | None
    why: str

    @classmethod
    def of(cls, options: RecogniserArguments) -> "LabelSource":
        """The model that `labels_from` names; otherwise the one that the run starts from. For an
        evaluation this is the start of the run that made the evaluated model (results.json).
        """
        start, recipe = options.start, options_of_evaluated_run(options, "recipe")
        if options.labels_from:
            return cls(options.labels_from, "labels_from")
        if not options.evaluate:
            return cls(start, "the model that unlearning starts from")
        if "model" not in recipe:
            return cls(start, "the evaluated model itself, because it has no results.json of a run")
        first = recipe.get("base_model") if recipe["model"] == "train" else recipe["model"]
        name = recipe.get("labels_from") or first
        return cls(name, f"the model that the labels of the run of {options.model} come from")

    def note(self, style: str) -> str:
        """Says in one sentence which labels the losses were computed with."""
        if style != "own":
            return f"The loss is computed with labels in the style {style!r}."
        return (
            f"The loss is computed with labels by {self.name} ({self.why}): its own transcripts "
            "where they match the reference."
        )


def options_of_evaluated_run(options: RecogniserArguments, group: str) -> dict[str, Any]:
    """The options of the run that made the evaluated model; {} if its results.json has none, or if
    this run does more than evaluate.

    Args:
        group: "recipe" or "data".
    """
    config = (results_of(options.model).get("config") or {}) if options.evaluate else {}
    return config.get(group) or {}


def load_source(
    options: RecogniserArguments,
    processor: ProcessorMixin,
    load: Callable[[str], PreTrainedModel],
) -> tuple[LabelSource, PreTrainedModel | None]:
    """The source of the labels and its model; None for a new model. An evaluation falls back to the
    evaluated model, with a warning, where its original cannot be loaded.

    Raises:
        ValueError: the model of `labels_from` writes in other tokens than the run's processor.
    """
    source = LabelSource.of(options)
    if source.name is None:
        return source, None
    start = options.start
    try:
        with loading(source.name):
            if source.name != start:
                _check_tokens(source.name, processor)
            return source, load_merged(load, source.name)
    except ValueError as error:
        if source.name in (start, options.labels_from):
            raise
        logger.warning(
            f"{source.name} ({source.why}) should write the labels, but {error}. So {start} itself "
            "writes them. If it has unlearned something, its loss is measured against its own new "
            "transcripts: give the original as labels_from."
        )
        source = LabelSource(start, "the evaluated model itself")
        return source, load_merged(load, start)


def _check_tokens(name: str, processor: ProcessorMixin) -> None:
    if difference := describe_difference(processor, AutoProcessor.from_pretrained(name)):
        raise ValueError(
            f"labels_from: the processor of {name} differs from the run's: {difference}. Give the "
            "model that the run started from"
        )
