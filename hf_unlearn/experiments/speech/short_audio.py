"""Trains Whisper on less than its 30 seconds of audio, because short utterances would be
padded with silence for most of it."""

import copy

import numpy as np
from torch import nn
from torch.utils.data import Dataset
from transformers import WhisperForConditionalGeneration

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

    The encoder then uses the first of its positions alone. Its cost falls at least in
    proportion to the length. The result is close, but not equal, to that of the same audio padded
    with silence to 30 seconds. Weights, configuration and saved files stay as they are.
    """
    encoder = model.model.encoder
    whole = encoder.config
    strides = encoder.conv1.stride[0] * encoder.conv2.stride[0]
    used = whole.max_source_positions

    def expect_length(encoder: nn.Module, arguments: tuple, keywords: dict) -> None:
        nonlocal used
        features = arguments[0] if arguments else keywords["input_features"]
        used = min(features.shape[-1] // strides, whole.max_source_positions)
        # The encoder compares the length of its input with its configuration.
        encoder.config = copy.copy(whole)
        encoder.config.max_source_positions = used

    def expect_whole(encoder: nn.Module, arguments: tuple, output: object) -> None:
        encoder.config = whole

    encoder.register_forward_pre_hook(expect_length, with_kwargs=True)
    encoder.register_forward_hook(expect_whole, always_call=True)
    encoder.embed_positions.register_forward_pre_hook(
        lambda _, arguments: (arguments[0][:used], *arguments[1:])
    )
