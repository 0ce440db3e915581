"""How a saved model is loaded: with a pipeline if everything it needs is saved, else by class."""

import json
from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedTokenizerBase, ProcessorMixin
from transformers.feature_extraction_utils import FeatureExtractionMixin
from transformers.image_processing_base import ImageProcessingMixin

PARTS = {
    "tokenizer": PreTrainedTokenizerBase,
    "feature_extractor": FeatureExtractionMixin,
    "image_processor": ImageProcessingMixin,
}
# What the pipeline of a task needs. Not every task has one: transformers 5 dropped that of
# "summarization".
NEEDED = {
    "automatic-speech-recognition": {"tokenizer", "feature_extractor"},
    "audio-classification": {"feature_extractor"},
    "image-classification": {"image_processor"},
    "text-classification": {"tokenizer"},
    "token-classification": {"tokenizer"},
    "text-generation": {"tokenizer"},
}
TOKENIZERS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
)


def processor_parts(processing_class: Any) -> list[str]:
    """Which of `PARTS` a Trainer's processing class consists of."""
    components = (
        vars(processing_class).values()
        if isinstance(processing_class, ProcessorMixin)
        else [processing_class]
    )
    return [
        part for part, base in PARTS.items() if any(isinstance(one, base) for one in components)
    ]


def saved_parts(folder: Path) -> set[str]:
    """Which of `PARTS` are saved in a folder."""
    parts = {"tokenizer"} if any((folder / name).is_file() for name in TOKENIZERS) else set()
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            saved = json.loads((folder / name).read_text(encoding="utf-8"))
            parts |= {part for part in PARTS if part in saved or f"{part}_type" in saved}
    return parts


def architecture_in(folder: Path) -> str | None:
    """The class of the model that is saved in a folder, according to its config.json."""
    path = folder / "config.json"
    if not path.is_file():
        return None
    names = json.loads(path.read_text(encoding="utf-8")).get("architectures")
    return names[0] if names else None


def usage(task: str, architecture: str | None, parts: set[str] | None) -> dict[str, Any]:
    """What the card's code example depends on.

    Args:
        task: what the model does, as the Hub names it, or "".
        architecture: class of the model, if known.
        parts: parts of the processor that are saved; None if not known.

    Returns:
        pipeline: the task of a pipeline that works, or None;
        loads: the class in transformers that loads the model, or None;
        missing: the parts that a pipeline would also need;
        foreign: the model's class if transformers does not have it, or None.
    """
    missing = sorted(NEEDED.get(task, set()) - parts) if parts is not None else []
    loads = architecture if architecture and hasattr(transformers, architecture) else None
    return {
        "pipeline": task if task in NEEDED and not missing else None,
        "loads": loads,
        "missing": [part.replace("_", " ") for part in missing],
        "foreign": architecture if architecture and not loads else None,
    }
