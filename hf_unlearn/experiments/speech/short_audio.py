"""Trains Whisper on less than its 30 seconds of audio, because short utterances would be
padded with silence for most of it."""

import copy

import numpy as np
from torch import nn
from torch.utils.data import Dataset
from transformers import WhisperForConditionalGeneration
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from ...data.speech.extractors import FRAMES_PER_SECOND


class TruncatedFeatures(Dataset):
    """Prepared rows of which only the first `seconds` of the features are read."""

    def __init__(self, rows: Dataset, seconds: float):
        self.rows, self.frames = rows, round(seconds * FRAMES_PER_SECOND)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        row = self.rows[index]
        features = np.asarray(row["input_features"])
        return {**row, "input_features": features[:, : self.frames]}


def take_short_audio(model: WhisperForConditionalGeneration) -> None:
    """Lets the encoder take features that are shorter than its 30 seconds: (batch, n_mels, frames)
    with any number of frames.

    The encoder then uses only the first of its positions. Its cost falls at least in
    proportion to the length. The result is close, but not equal, to that of the same audio padded
    with silence to 30 seconds. Weights, configuration and saved files stay as they are.
    """
    encoder = model.model.encoder
    length = EncoderLength(encoder)
    encoder.register_forward_pre_hook(length.shorten, with_kwargs=True)
    encoder.register_forward_hook(length.restore, always_call=True)
    encoder.embed_positions.register_forward_pre_hook(length.first_positions)


class EncoderLength:
    """The hooks of `take_short_audio`. A deep copy of the model gets a copy of them, with state of
    its own.

    Args:
        encoder: of the model.
    """

    def __init__(self, encoder: WhisperEncoder):
        self._config = encoder.config
        self._strides = encoder.conv1.stride[0] * encoder.conv2.stride[0]
        # the positions that the current pass uses
        self._used = encoder.config.max_source_positions

    def shorten(self, encoder: WhisperEncoder, arguments: tuple, keywords: dict) -> None:
        """Before a pass: the encoder compares the length of its input with its configuration."""
        features = arguments[0] if arguments else keywords["input_features"]
        positions = features.shape[-1] // self._strides
        self._used = min(positions, self._config.max_source_positions)
        encoder.config = copy.copy(self._config)
        encoder.config.max_source_positions = self._used

    def restore(self, encoder: WhisperEncoder, arguments: tuple, output: object) -> None:
        """After a pass."""
        encoder.config = self._config

    def first_positions(self, embedding: nn.Embedding, arguments: tuple) -> tuple:
        """The arguments of the embedding of positions: those that the pass uses."""
        return (arguments[0][: self._used], *arguments[1:])
