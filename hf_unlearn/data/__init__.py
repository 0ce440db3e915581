"""Data with known owners: speech by speaker, and its splits for unlearning."""

from .speech.samples import SAMPLING_RATE, SpeechArguments, SpeechCollator, decode_audio, prepare
from .speech.sources import load_speech
from .speech.splits import SpeakerSplits, load_splits, prepare_splits, split_by_speaker

__all__ = [
    "SAMPLING_RATE",
    "SpeakerSplits",
    "SpeechArguments",
    "SpeechCollator",
    "decode_audio",
    "load_speech",
    "load_splits",
    "prepare",
    "prepare_splits",
    "split_by_speaker",
]
