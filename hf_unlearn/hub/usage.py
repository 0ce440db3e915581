"""How a saved model is loaded: by a pipeline where all that the pipeline needs is saved beside it,
else by its class."""

import json
from pathlib import Path

import transformers
from transformers import PreTrainedTokenizerBase, ProcessorMixin
from transformers.feature_extraction_utils import FeatureExtractionMixin
from transformers.image_processing_base import ImageProcessingMixin

KINDS = {
    "tokenizer": PreTrainedTokenizerBase,
    "feature_extractor": FeatureExtractionMixin,
    "image_processor": ImageProcessingMixin,
}
# of the tasks that have a pipeline: "summarization", for one, has none since transformers 5
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


def processor_parts(processing_class) -> list[str]:
    """Which of tokenizer, feature extractor and image processor a processing class is made of."""
    parts = (
        vars(processing_class).values()
        if isinstance(processing_class, ProcessorMixin)
        else [processing_class]
    )
    return [kind for kind, base in KINDS.items() if any(isinstance(part, base) for part in parts)]


def saved_parts(folder: Path) -> set[str]:
    """The same of what is saved in a folder."""
    parts = {"tokenizer"} if any((folder / name).is_file() for name in TOKENIZERS) else set()
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            saved = json.loads((folder / name).read_text(encoding="utf-8"))
            parts |= {kind for kind in KINDS if kind in saved or f"{kind}_type" in saved}
    return parts


def architecture_in(folder: Path) -> str | None:
    """The class of the model that is saved in a folder, by its config.json."""
    path = folder / "config.json"
    names = (
        json.loads(path.read_text(encoding="utf-8")).get("architectures")
        if path.is_file()
        else None
    )
    return names[0] if names else None


def usage(task: str, architecture: str | None, parts: set[str] | None) -> dict:
    """What the card's example has to know.

    Args:
        task: the Hub's name of what the model does, or "".
        parts: what processes its inputs and is saved; None where that is not known.

    Returns:
        pipeline: the task of a pipeline that works, or None; loads: the class of transformers to
            load it by, or None;
        missing: what a pipeline would need besides.
    """
    missing = sorted(NEEDED.get(task, set()) - parts) if parts is not None else []
    loads = architecture if architecture and hasattr(transformers, architecture) else None
    return {
        "pipeline": task if task in NEEDED and not missing else None,
        "loads": loads,
        "missing": [kind.replace("_", " ") for kind in missing],
        "foreign": architecture if architecture and not loads else None,
    }
