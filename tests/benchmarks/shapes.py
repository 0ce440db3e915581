"""Models of published shapes with random weights, and random samples of the usual sizes."""

from collections.abc import Callable

import torch
from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

# Number of tokens in a transcript of about ten seconds.
LABELS = 40


def whisper(
    seconds: int, labels: int = LABELS, special: int = 2000, **shape: int
) -> tuple[PreTrainedModel, Callable[[], dict]]:
    """A Whisper for audio of this length, and a function that makes a sample.

    Args:
        labels: number of tokens in a transcript.
        special: transcripts do not contain this many tokens, the last of the vocabulary.
    """
    config = WhisperConfig(max_source_positions=50 * seconds, **shape)

    def sample() -> dict[str, torch.Tensor]:
        return {
            "input_features": torch.randn(config.num_mel_bins, 100 * seconds),
            "labels": torch.randint(config.vocab_size - special, (labels,)),
        }

    return WhisperForConditionalGeneration(config), sample


def image_classifier(
    model: type[PreTrainedModel], config: PreTrainedConfig
) -> tuple[PreTrainedModel, Callable[[], dict]]:
    """An image classifier, and a function that makes a sample."""

    def sample() -> dict[str, torch.Tensor]:
        return {
            "pixel_values": torch.randn(3, 224, 224),
            "labels": torch.randint(config.num_labels, ()),
        }

    return model(config), sample


def _encoder_decoder(d_model: int, layers: int, heads: int) -> dict:
    return {
        "d_model": d_model,
        "encoder_layers": layers,
        "decoder_layers": layers,
        "encoder_attention_heads": heads,
        "decoder_attention_heads": heads,
        "encoder_ffn_dim": 4 * d_model,
        "decoder_ffn_dim": 4 * d_model,
    }


# The vocabulary of the demo's Whisper.
_LETTERS = {
    "vocab_size": 40,
    "pad_token_id": 39,
    "bos_token_id": 38,
    "eos_token_id": 38,
    "decoder_start_token_id": 38,
}
# Name -> function of the length of the audio in seconds, which images ignore.
SHAPES = {
    # The model of recipes/demo.
    "whisper-demo": lambda seconds: whisper(
        seconds, labels=12, special=2, **_encoder_decoder(96, 2, 4), **_LETTERS
    ),
    "whisper-tiny": lambda seconds: whisper(seconds, **_encoder_decoder(384, 4, 6)),
    "whisper-small": lambda seconds: whisper(seconds, **_encoder_decoder(768, 12, 12)),
    "whisper-large-v3": lambda seconds: whisper(
        seconds, **_encoder_decoder(1280, 32, 20), num_mel_bins=128, vocab_size=51866
    ),
    "vit-b": lambda seconds: image_classifier(
        ViTForImageClassification, ViTConfig(num_labels=1000)
    ),
    "resnet-50": lambda seconds: image_classifier(
        ResNetForImageClassification, ResNetConfig(num_labels=1000)
    ),
}


def dry_shape(name: str, seconds: int) -> tuple[PreTrainedModel, Callable[[], dict]]:
    """A tiny model of the same architecture as one of `SHAPES`, to try a benchmark."""
    if name == "vit-b":
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        return image_classifier(
            ViTForImageClassification, ViTConfig(num_labels=10, intermediate_size=32, **sizes)
        )
    if name == "resnet-50":
        sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
        return image_classifier(ResNetForImageClassification, ResNetConfig(num_labels=10, **sizes))
    return whisper(min(seconds, 2), **_encoder_decoder(16, 1, 2))
