"""The options of the recipes of speech recognition."""

from dataclasses import dataclass, field
from typing import Annotated

from ..option_effects import Affects
from ..options import RecipeArguments


@dataclass
class RecogniserArguments(RecipeArguments):
    """How texts are compared, which model writes the labels, and which layers get an adapter."""

    normalize: Annotated[str, Affects.MEASUREMENTS] = field(
        default="true",
        metadata={
            "help": "How texts are normalised before WER and CER: 'english' (Whisper's; it joins "
            "spoken digits into one number, so use false for digits), 'basic' for other "
            "languages, 'none'; true: chosen by the language; false: none."
        },
    )
    report_audio: Annotated[int, Affects.NEITHER] = field(
        default=0,
        metadata={
            "help": "Number of utterances of each split that report.html plays. Check that the "
            "data's license and the speakers allow it."
        },
    )
    lora_target_modules: Annotated[list[str], Affects.NEITHER] = field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
        metadata={"help": "LoRA: names of the layers that get an adapter."},
    )
    labels_from: Annotated[str | None, Affects.NEITHER] = field(
        default=None,
        metadata={
            "help": "The model whose own transcripts become the labels: a folder or Hub id. By "
            "default the model that unlearning starts from; for hf-unlearn evaluate, the one that "
            "the evaluated run used, by its results.json."
        },
    )


@dataclass
class WhisperArguments(RecogniserArguments):
    """The size of a new Whisper, how its training data is augmented, and what unlearning reads."""

    tokenizer: str | None = field(
        default=None,
        metadata={
            "help": "New model: folder or Hub id of a tokenizer. By default every word of the "
            "data becomes one token."
        },
    )
    d_model: int = field(
        default=96,
        metadata={"help": "New model: width; the feed-forward layers are four times as wide."},
    )
    layers: int = field(
        default=2, metadata={"help": "New model: layers of the encoder, and of the decoder."}
    )
    heads: int = field(default=4, metadata={"help": "New model: attention heads."})
    init_std: float = field(
        default=0.06, metadata={"help": "New model: standard deviation of the initial weights."}
    )
    chunk_length: int = field(
        default=30,
        metadata={
            "help": "New model: seconds of audio that it takes. Shorter audio is padded with "
            "silence, which costs as much computation."
        },
    )
    max_target_positions: int = field(
        default=448,
        metadata={
            "help": "New model: maximum number of tokens of a transcript, special tokens included."
        },
    )
    train_hidden_words: float = field(
        default=0.0,
        metadata={
            "help": "Training (model or gold is 'train'): fraction of the decoder's input words "
            "that are masked, drawn again for each sample."
        },
    )
    train_shift: float = field(
        default=0.0,
        metadata={
            "help": "Training (model or gold is 'train'): maximum number of seconds by which an "
            "utterance is delayed, drawn again for each sample."
        },
    )
    augment: Annotated[int, Affects.NEITHER] = field(
        default=0,
        metadata={
            "help": "Unlearning augments its samples, too, with train_hidden_words and "
            "train_shift. Each retain sample is repeated this many times, augmented anew each "
            "time. 0: no augmentation."
        },
    )
    forget_windows: Annotated[int, Affects.NEITHER] = field(
        default=0,
        metadata={
            "help": "Whisper with forget_objective 'silence': each epoch of unlearning reads this "
            "many random windows of every forget utterance. For half of them the text is drawn "
            "from all forget utterances. So the model learns the voice rather than the "
            "recordings. augment then changes only the retain samples. 0: whole utterances."
        },
    )
    train_seconds: float | None = field(
        default=None,
        metadata={
            "help": "Whisper: training and unlearning read this many seconds of each utterance, "
            "not 30, and steps cost less in proportion. Evaluation always reads 30 seconds. Choose "
            "one second more than the longest utterance."
        },
    )


@dataclass
class CtcArguments(RecogniserArguments):
    """The size of a new CTC model."""

    d_model: int = field(
        default=96,
        metadata={"help": "New model: width; the feed-forward layers are four times as wide."},
    )
    layers: int = field(default=2, metadata={"help": "New model: layers of the encoder."})
    heads: int = field(default=4, metadata={"help": "New model: attention heads."})
    dropout: float = field(default=0.1, metadata={"help": "New model: dropout in its training."})
