"""The data options of a speech recipe."""

from dataclasses import dataclass, field

from ..data_arguments import ClassArguments, DataArguments
from .transcripts import STYLES


@dataclass
class UtteranceArguments(DataArguments):
    """The data of a recipe for speech, whatever its labels: where it is, who is forgotten, how much
    is retained."""

    dataset: str = field(
        default="openslr/librispeech_asr",
        metadata={
            "help": "Hub id; folder of the official LibriSpeech tree; folder with metadata.csv "
            "(file_name, speaker, text, and split if it holds several); table of audio paths (csv, "
            "tsv, json, jsonl, parquet)."
        },
    )
    dataset_config: str | None = field(
        default=None,
        metadata={"help": "Configuration on the Hub: clean, other or all for LibriSpeech."},
    )
    train_split: str = field(
        default="train.100",
        metadata={
            "help": "Split that the model was trained on; train-clean-100 in a local LibriSpeech "
            "tree."
        },
    )
    other_split: str | None = field(
        default=None, metadata={"help": "Split of speakers that the model was never trained on."}
    )
    audio_column: str = field(
        default="audio", metadata={"help": "Column of the audio or of its path."}
    )
    speaker_column: str = field(
        default="speaker_id", metadata={"help": "Column of the speaker (Common Voice: client_id)."}
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Store only the utterances asked for of a Hub dataset, and stop reading once "
            "all have arrived (which needs retain_speakers and max_utterances_per_speaker). "
            "test_split and other_split are read to their end."
        },
    )
    forget_speakers: list[str] = field(
        default_factory=list, metadata={"help": "Ids of the speakers to forget."}
    )
    retain_speakers: list[str] = field(
        default_factory=list,
        metadata={"help": "Ids of the speakers to retain; all others if none is named."},
    )
    max_utterances_per_speaker: int | None = field(
        default=None,
        metadata={"help": "Maximum number of utterances of each speaker; default: all."},
    )
    skip_bad_audio: bool = field(
        default=False,
        metadata={
            "help": "Leave out broken, empty, silent, too short and too long audio, with one "
            "warning."
        },
    )
    num_proc: int | None = field(
        default=None, metadata={"help": "Number of processes that extract features."}
    )


@dataclass
class SpeechArguments(UtteranceArguments):
    """The data of a recipe for speech with transcripts."""

    text_column: str = field(
        default="text", metadata={"help": "Column of the transcript (Common Voice: sentence)."}
    )
    skip_bad_labels: bool = field(
        default=False,
        metadata={
            "help": "Leave out transcripts that the model cannot learn, with one warning: empty or "
            "too long ones, those with characters that its tokenizer does not have, and CTC "
            "labels that are longer than the audio."
        },
    )
    language: str | None = field(
        default=None, metadata={"help": "Language token of a multilingual Whisper, e.g. en."}
    )
    task: str | None = field(
        default=None,
        metadata={
            "help": "Task token of a multilingual Whisper; transcribe if a language is given "
            "without a task."
        },
    )
    transcripts: str | None = field(
        default=None,
        metadata={
            "help": "Style of the labels. 'own': the model's own transcripts if they agree with "
            "the references or there are none, else as 'sentence' (CTC: 'vocabulary'). 'sentence': "
            "' Like this one.' 'as_written': the references unchanged. 'vocabulary' (CTC): in the "
            "letters of the tokenizer. Default: as_written for a new model and for one that finds "
            "it likelier than sentences, own for others; vocabulary for a CTC model, and own where "
            "the data has no transcripts at all.",
            "choices": list(STYLES),
        },
    )
    store_features: bool = field(
        default=False,
        metadata={
            "help": "Store the features of all utterances before the first step, in float16 (for "
            "Whisper half a megabyte for each). By default they are computed whenever an utterance "
            "is read, in dataloader_num_workers processes, and those of a small set stay in "
            "memory: that takes no disk, but more time where many utterances are read repeatedly."
        },
    )


@dataclass
class SpeechClassArguments(ClassArguments, UtteranceArguments):
    """The data of a recipe for speech with classes: keywords, intents, or its speakers."""

    label_column: str = field(
        default="label",
        metadata={
            "help": "Column of the class, such as a keyword or an intent; the speaker_column for "
            "speaker identification. Folders of audio with a folder for each label need none."
        },
    )
    forget_share: float | None = field(
        default=None,
        metadata={
            "help": "Instead of forget_speakers: draws speakers at random until this share of the "
            "training utterances is theirs (UnSLU-BENCH: 0.025)."
        },
    )
    forget_share_min: int = field(
        default=100,
        metadata={"help": "forget_share draws only speakers with more training utterances."},
    )
    max_seconds: float | None = field(
        default=None,
        metadata={
            "help": "Number of seconds to which longer audio is cut; by default audio that is "
            "longer than the model takes is refused."
        },
    )

    @property
    def forgets_speakers(self) -> bool:
        """Whether whole speakers are forgotten."""
        return bool(self.forget_speakers or self.forget_share)

    @property
    def identifies_speakers(self) -> bool:
        """Whether the classes are the speakers."""
        return self.label_column == self.speaker_column
