"""Data whose owners are known: speech by speaker and images by class, and their splits."""

import importlib
from typing import Any

# Loaded from `speech` when they are first asked for: images need neither librosa nor soundfile.
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


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(".speech", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
