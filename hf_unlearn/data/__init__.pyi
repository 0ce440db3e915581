"""The names of `hf_unlearn.data`, which loads them when they are first asked for."""

from .speech import SAMPLING_RATE as SAMPLING_RATE
from .speech import SpeakerSplits as SpeakerSplits
from .speech import SpeechArguments as SpeechArguments
from .speech import SpeechCollator as SpeechCollator
from .speech import audio_extractor as audio_extractor
from .speech import decode_audio as decode_audio
from .speech import load_speech as load_speech
from .speech import load_splits as load_splits
from .speech import longest_audio as longest_audio
from .speech import longest_label as longest_label
from .speech import prepare as prepare
from .speech import prepare_splits as prepare_splits
from .speech import shortest_audio as shortest_audio
from .speech import split_by_speaker as split_by_speaker
