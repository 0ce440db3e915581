"""Data whose owners are known: speech by speaker and images by class, and their splits."""

from .speech import (
    SAMPLING_RATE,
    SpeakerSplits,
    SpeechArguments,
    SpeechCollator,
    decode_audio,
    load_speech,
    load_splits,
    prepare,
    prepare_splits,
    split_by_speaker,
)

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
