"""Data whose owners are known: speech by speaker and images by class, and their splits."""

from .speech import (
    SAMPLING_RATE,
    SpeakerSplits,
    SpeechArguments,
    SpeechCollator,
    audio_extractor,
    decode_audio,
    load_speech,
    load_splits,
    longest_audio,
    longest_label,
    prepare,
    prepare_splits,
    split_by_speaker,
)

__all__ = [
    "SAMPLING_RATE",
    "SpeakerSplits",
    "SpeechArguments",
    "SpeechCollator",
    "audio_extractor",
    "decode_audio",
    "load_speech",
    "load_splits",
    "longest_audio",
    "longest_label",
    "prepare",
    "prepare_splits",
    "split_by_speaker",
]
