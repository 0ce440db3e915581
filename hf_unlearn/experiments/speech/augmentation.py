"""Augments speech samples, so that a small model listens instead of memorising sentences."""

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import WhisperConfig, WhisperProcessor

from ...data.speech.extractors import FRAMES_PER_SECOND


class AugmentedSpeech(Dataset):
    """Prepared rows, augmented anew each time they are read.

    A model soon memorises a few hundred sentences: two words recall the rest, and the audio is not
    needed. Hiding words and delaying the audio counters this.

    Args:
        hidden: the fraction of the decoder's input words that are replaced by the end token.
        shift: the maximum number of frames by which an utterance is delayed.
    """

    def __init__(
        self,
        rows: Dataset,
        processor: WhisperProcessor,
        model_config: WhisperConfig,
        hidden: float,
        shift: int,
    ):
        self.rows, self.model_config, self.hidden, self.shift = rows, model_config, hidden, shift
        self.special = torch.tensor(processor.tokenizer.all_special_ids)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        row = self.rows[index]
        return {
            **row,
            "input_features": self._delayed(row),
            "decoder_input_ids": self._partly_hidden(row["labels"]),
        }

    def _delayed(self, row: dict) -> np.ndarray:
        """The features (n_mels, frames), delayed within the silence at their end."""
        features = np.asarray(row["input_features"])
        silent = features.shape[1] - audio_frames(row)
        shift = int(torch.randint(min(self.shift, silent) + 1, ()))
        return np.roll(features, shift, axis=1)

    def _partly_hidden(self, labels: list[int]) -> torch.Tensor:
        """The decoder's input ids (T,) for these labels."""
        start = self.model_config.decoder_start_token_id
        inputs = torch.tensor([start, *(labels[1:] if labels[0] == start else labels)[:-1]])
        words = ~torch.isin(inputs, self.special)
        hidden = words & (torch.rand(inputs.shape) < self.hidden)
        return inputs.masked_fill(hidden, self.model_config.eos_token_id)


def audio_frames(row: dict) -> int:
    """How many frames of a prepared row's features (n_mels, frames) its audio fills."""
    frames = np.asarray(row["input_features"]).shape[1]
    return min(frames, int(np.ceil(row["duration"] * FRAMES_PER_SECOND)))
