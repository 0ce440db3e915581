"""Random windows of a speaker's utterances, for a model that is to write nothing for a voice."""

import hashlib

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .augmentation import audio_frames

# The shortest window, as a fraction of its utterance.
SHORTEST = 0.4
# The longest silence before a window, in frames.
LONGEST_DELAY = 50
# The share of windows whose text is drawn from all rows.
OTHER_TEXT = 0.5
# How many windows a retain sample has. They come again, so their frozen outputs are computed once.
RETAIN_WINDOWS = 3


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
        features = torch.from_numpy(np.array(row["input_features"]))
        window = _window(features, audio_frames(row))
        return {**row, "input_features": window.numpy(), "labels": labels}

    def windows_of(self, batch: dict, generator: torch.Generator) -> dict:
        """A batch of retain samples with a window of each one's audio, one of RETAIN_WINDOWS. The
        trainer keeps the model from falling silent on them (`trainer.batches.forget_data`).

        Args:
            batch: with `input_features` (k, n_mels, frames).
            generator: chooses each window.
        """
        features = batch["input_features"]
        numbers = torch.randint(RETAIN_WINDOWS, (len(features),), generator=generator).tolist()
        windows = [_window_number(n, sample.cpu()) for n, sample in zip(numbers, features)]
        return {**batch, "input_features": torch.stack(windows).to(features)}


def _window_number(number: int, features: Tensor) -> Tensor:
    """One window of the audio, which depends on the number and the features alone."""
    content = hashlib.sha256(features.float().numpy().tobytes()).digest()
    seed = (int.from_bytes(content[:6], "big") + number) % 2**63
    loud = (features > features.min()).any(0).nonzero()
    frames = int(loud.max()) + 1 if len(loud) else features.shape[1]
    return _window(features, frames, torch.Generator().manual_seed(seed))


def _window(features: Tensor, frames: int, generator: torch.Generator | None = None) -> Tensor:
    """The features (n_mels, frames) of a part of the audio, with silence around it.

    Args:
        frames: how many of them have audio.
        generator: torch's own by default.
    """

    def below(limit: int) -> int:
        return int(torch.randint(limit, (), generator=generator))

    share = float(torch.empty(()).uniform_(SHORTEST, 1, generator=generator))
    length = max(1, int(frames * share))
    start = below(frames - length + 1)
    delay = below(min(LONGEST_DELAY, features.shape[1] - length) + 1)
    # Whisper's log-mel features have a floor, which silence has.
    window = torch.full_like(features, float(features.min()))
    window[:, delay : delay + length] = features[:, start : start + length]
    return window
