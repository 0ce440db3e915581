"""The options of the image recipe."""

from dataclasses import dataclass, field
from typing import Annotated

from ..option_effects import Affects
from ..options import ClassifierArguments


@dataclass
class ImageRecipeArguments(ClassifierArguments):
    """The size of a new classifier, and how its training data is augmented."""

    architecture: str = field(
        default="vit", metadata={"help": "New model: vit or resnet.", "choices": ["vit", "resnet"]}
    )
    image_size: int = field(
        default=32, metadata={"help": "New model: height and width of its input, in pixels."}
    )
    channels: int = field(default=3, metadata={"help": "New model: 1 for grey, 3 for RGB."})
    patch_size: int = field(
        default=4, metadata={"help": "New vit: height and width of a patch, in pixels."}
    )
    d_model: int = field(
        default=64, metadata={"help": "New model: width (resnet: channels of the first stage)."}
    )
    layers: int = field(
        default=4, metadata={"help": "New model: layers (resnet: blocks in each of three stages)."}
    )
    heads: int = field(default=4, metadata={"help": "New vit: attention heads."})
    init_std: float = field(
        default=0.02, metadata={"help": "New vit: standard deviation of the initial weights."}
    )
    train_shift: int = field(
        default=0,
        metadata={
            "help": "Training (model or gold is 'train'): maximum number of pixels by which an "
            "image is moved, drawn again for each sample."
        },
    )
    train_flip: bool = field(
        default=False,
        metadata={
            "help": "Training (model or gold is 'train'): mirror half of the images, drawn again "
            "each time."
        },
    )
    lora_target_modules: Annotated[list[str], Affects.NEITHER] = field(
        default_factory=lambda: [
            *("q_proj", "k_proj", "v_proj", "o_proj"),
            *("query", "key", "value", "dense"),
        ],
        metadata={"help": "LoRA: names of the layers that get an adapter."},
    )
