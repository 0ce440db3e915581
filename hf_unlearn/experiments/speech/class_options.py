"""The options of the recipe for classifiers of speech."""

from dataclasses import dataclass, field
from typing import Annotated

from ..option_effects import Affects
from ..options import ClassifierArguments


@dataclass
class SpeechClassRecipeArguments(ClassifierArguments):
    """The size of a new classifier."""

    chunk_length: int = field(
        default=1,
        metadata={
            "help": "New model: seconds of audio that it takes, a whole number. Shorter audio is "
            "padded with silence, which costs as much computation."
        },
    )
    d_model: int = field(
        default=64,
        metadata={"help": "New model: width; the feed-forward layers are four times as wide."},
    )
    layers: int = field(default=2, metadata={"help": "New model: layers of the encoder."})
    heads: int = field(default=4, metadata={"help": "New model: attention heads."})
    init_std: float = field(
        default=0.06, metadata={"help": "New model: standard deviation of the initial weights."}
    )
    lora_target_modules: Annotated[list[str], Affects.NEITHER] = field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "out_proj", "query", "key", "value"],
        metadata={"help": "LoRA: names of the layers that get an adapter."},
    )
