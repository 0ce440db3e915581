"""Speech with known speakers: sources, samples and splits.

In training code of your own, two calls take any speech model of transformers:

    rows = prepare(load_speech("folder", split="train"), processor)
    trainer = UnlearnTrainer(..., forget_dataset=rows, data_collator=SpeechCollator(processor))
"""

from .audio import SAMPLING_RATE, decode_audio
from .collator import SpeechCollator
from .extractors import audio_extractor, longest_audio, longest_label, shortest_audio
from .samples import prepare
from .sources import load_speech
from .speech_arguments import SpeechArguments
from .splits import SpeakerSplits, load_splits, prepare_splits, split_by_speaker

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
    "shortest_audio",
    "split_by_speaker",
]
