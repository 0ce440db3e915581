"""The options that the Whisper recipe adds to those of every recipe."""

from dataclasses import dataclass, field

from hf_unlearn.recipe import RecipeArguments


@dataclass
class WhisperArguments(RecipeArguments):
    """Which Whisper is built where none is loaded, and how its training data is varied."""

    tokenizer: str | None = field(
        default=None,
        metadata={"help": "New model: folder or Hub id of a tokenizer; without it one token per word of the data."},
    )
    d_model: int = field(
        default=96, metadata={"help": "New model: width; the feed-forward layers have four times it."}
    )
    layers: int = field(default=2, metadata={"help": "New model: layers of the encoder, and of the decoder."})
    heads: int = field(default=4, metadata={"help": "New model: attention heads."})
    init_std: float = field(default=0.06, metadata={"help": "New model: standard deviation of the initial weights."})
    chunk_length: int = field(
        default=30, metadata={"help": "New model: seconds of audio it takes. It computes all of them, silent or not."}
    )
    max_target_positions: int = field(
        default=448, metadata={"help": "New model: most tokens of a transcript, special ones included."}
    )
    train_hidden_words: float = field(
        default=0.0, metadata={"help": "'train': share of the words that the decoder does not see while it learns."}
    )
    train_shift: float = field(
        default=0.0,
        metadata={"help": "'train': seconds by which an utterance starts later, at most, drawn each time."},
    )
    augment: int = field(
        default=0,
        metadata={
            "help": "Unlearning takes its samples with train_hidden_words and train_shift, too, and each retain sample "
            "so many times over, each time another way; 0: samples as they are."
        },
    )
    normalize: str = field(
        default="true",
        metadata={
            "help": "Normaliser of texts before WER and CER: 'english' (Whisper's; it joins spoken digits to one word: false "
            "there), 'basic' for other languages, 'none'; true: by the language, false: none."
        },
    )
    report_audio: int = field(
        default=0,
        metadata={
            "help": "report.html plays so many utterances of each split: mind what the data's license and the speakers allow."
        },
    )
    lora_target_modules: list[str] = field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
        metadata={"help": "LoRA: names of the layers that get an adapter."},
    )

    _not_of_training = RecipeArguments._not_of_training | {"augment", "normalize", "report_audio"}
