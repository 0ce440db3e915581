"""Speech with known speakers: sources, samples and splits."""

from .arguments import SpeechArguments
from .audio import SAMPLING_RATE, decode_audio
from .samples import SpeechCollator, prepare
from .sources import load_speech
from .splits import SpeakerSplits, load_splits, prepare_splits, split_by_speaker

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
