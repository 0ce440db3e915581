"""Random windows of a speaker's utterances, for a model that is to write nothing for a voice."""

import numpy as np
import torch
from torch.utils.data import Dataset

from .augmentation import audio_frames

# The shortest window, as a fraction of its utterance.
SHORTEST = 0.4
# The longest silence before a window, in frames.
LONGEST_DELAY = 50
# The share of windows whose text is drawn from all rows.
OTHER_TEXT = 0.5


class VoiceWindows(Dataset):
    """Windows of the audio of prepared rows, drawn anew each time they are read. Half of them get a
    text that is drawn from all rows.

    They are for `forget_objective: silence`. From whole utterances with their own texts, a model
    would learn to leave out these recordings or these words, rather than the voice. The text need
    not fit the audio, because the model should not continue it at any position.

    Args:
        rows: prepared rows with `input_features` (n_mels, frames), whose end is silent if the audio
            is shorter, `duration` in seconds, and `labels`.
        copies: the number of windows of each row.

    Attributes:
        changes_each_time: no window comes twice, so the trainer keeps none of its frozen outputs.
    """

    changes_each_time = True

    def __init__(self, rows: Dataset, copies: int):
        self.rows, self.copies = rows, copies

    def __len__(self) -> int:
        return len(self.rows) * self.copies

    def __getitem__(self, index: int) -> dict:
        row = self.rows[index % len(self.rows)]
        labels = row["labels"]
        if torch.rand(()) < OTHER_TEXT:
            labels = self.rows[int(torch.randint(len(self.rows), ()))]["labels"]
        return {**row, "input_features": _window(row), "labels": labels}


def _window(row: dict) -> np.ndarray:
    """The features (n_mels, frames) of a part of the audio, with silence around it."""
    features = np.asarray(row["input_features"])
    frames = audio_frames(row)
    length = max(1, int(frames * float(torch.empty(()).uniform_(SHORTEST, 1))))
    start = int(torch.randint(frames - length + 1, ()))
    delay = int(torch.randint(min(LONGEST_DELAY, features.shape[1] - length) + 1, ()))
    # Whisper's log-mel features have a floor, which silence has.
    window = np.full_like(features, features.min())
    window[:, delay : delay + length] = features[:, start : start + length]
    return window
