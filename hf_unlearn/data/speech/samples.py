"""What Whisper trains on: features, labels and batches of speech with known speakers, and the
options for them."""

import io
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import datasets
import librosa
import numpy as np
import soundfile
import torch
from datasets import Array2D, Dataset, Features, List, Value
from datasets.fingerprint import Hasher
from torch.nn.utils.rnn import pad_sequence
from transformers import WhisperFeatureExtractor, WhisperTokenizer

from .sources import load_speech
from .transcripts import STYLES

__all__ = [
    "SAMPLING_RATE",
    "SpeechArguments",
    "SpeechCollator",
    "decode_audio",
    "load_speech",
    "prepare",
]

logger = logging.getLogger(__name__)

SAMPLING_RATE = 16_000  # Hz
BATCH = 16  # utterances that are extracted, and written, at once


@dataclass
class SpeechArguments:
    """The data of a speech recipe: where it is, who is forgotten, how much is retained."""

    _argument_group_name = "data"

    dataset: str = field(
        default="openslr/librispeech_asr",
        metadata={
            "help": "Hub id; folder of the official LibriSpeech tree; folder with metadata.csv "
            "(file_name, speaker, "
            "text, and split if it holds several); table of audio paths (csv, tsv, json, jsonl, "
            "parquet)"
        },
    )
    dataset_config: str | None = field(
        default=None,
        metadata={"help": "Configuration on the Hub: clean, other or all for LibriSpeech"},
    )
    dataset_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of the dataset on the Hub"}
    )
    train_split: str = field(
        default="train.100",
        metadata={
            "help": "Split that the model was trained on; train-clean-100 in a local "
            "LibriSpeech tree"
        },
    )
    test_split: str | None = field(
        default=None,
        metadata={
            "help": "Split of unseen utterances; without it a share of train_split is held out"
        },
    )
    other_split: str | None = field(
        default=None, metadata={"help": "Split with speakers never trained on"}
    )
    audio_column: str = field(default="audio", metadata={"help": "Column of the audio or its path"})
    text_column: str = field(
        default="text", metadata={"help": "Column of the transcript (Common Voice: sentence)"}
    )
    speaker_column: str = field(
        default="speaker_id", metadata={"help": "Column of the speaker (Common Voice: client_id)"}
    )
    id_column: str = field(
        default="id",
        metadata={
            "help": "Column of unique utterance ids; where there is none, audio paths are the ids"
        },
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Keep only the utterances asked for of a Hub set, and stop reading once all "
            "are there (which "
            "takes retain_speakers and max_utterances_per_speaker)"
        },
    )
    forget_speakers: list[str] = field(
        default_factory=list, metadata={"help": "Ids of the speakers to forget"}
    )
    retain_speakers: list[str] = field(
        default_factory=list, metadata={"help": "Ids of the speakers to retain; none: all others"}
    )
    held_out: float = field(
        default=0.1,
        metadata={
            "help": "Share of a speaker's utterances kept out of training, where test_split "
            "has none of them"
        },
    )
    retain_size: float = field(
        default=48,
        metadata={
            "help": "Utterances in the retain set; below 1, the share of the retained "
            "training utterances"
        },
    )
    retain_rest: int = field(
        default=0,
        metadata={
            "help": "Evaluate so many training utterances that are retained but not in the retain "
            "set, too: what of the "
            "training data is kept that unlearning does not see"
        },
    )
    max_utterances_per_speaker: int | None = field(
        default=None, metadata={"help": "Use at most so many of a speaker"}
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Evaluate on at most so many of each split"}
    )
    skip_bad_audio: bool = field(
        default=False,
        metadata={"help": "Leave out broken, empty and too long audio, with one warning"},
    )
    language: str | None = field(
        default=None, metadata={"help": "Language token of a multilingual Whisper, e.g. en"}
    )
    task: str | None = field(
        default=None,
        metadata={
            "help": "Task token of a multilingual Whisper; transcribe where language is "
            "given and this is not"
        },
    )
    transcripts: str | None = field(
        default=None,
        metadata={
            "help": "Style of the labels: 'own', the model's own transcripts where they agree with "
            "the references or there "
            "are none, else 'sentence', ' Like this one.'; or 'as_written'. Default: as_written "
            "for a new model and for one "
            "that finds this likelier than a sentence, own for the others.",
            "choices": list(STYLES),
        },
    )
    num_proc: int | None = field(default=None, metadata={"help": "Processes that extract features"})

    def __post_init__(self):
        self.forget_speakers = _as_ids(self.forget_speakers)
        self.retain_speakers = _as_ids(self.retain_speakers)


def _as_ids(speakers) -> list[str]:
    # One id may come as no list, and from Python as a number.
    if speakers is None:
        return []
    return [
        str(speaker) for speaker in (speakers if isinstance(speakers, list | tuple) else [speakers])
    ]


def decode_audio(audio: dict, sampling_rate: int = SAMPLING_RATE) -> np.ndarray:
    """Mono float32 waveform (samples,) at `sampling_rate` Hz of {"bytes", "path"}: channels
    averaged, then resampled.

    Raises ValueError, naming the file, where it is missing, not audio, empty, or has samples that
    are not finite.
    """
    name = _name(audio)
    if audio["bytes"] is None and not audio["path"]:
        raise ValueError("the audio has neither bytes nor a path")
    try:
        with (
            open(audio["path"], "rb")
            if audio["bytes"] is None
            else io.BytesIO(audio["bytes"]) as file
        ):
            samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
    except OSError as error:
        raise ValueError(f"cannot open the audio of {name}: {error.strerror}") from None
    except soundfile.LibsndfileError as error:
        raise ValueError(f"cannot decode the audio of {name}: {error.error_string}") from None
    if samples.size == 0:
        raise ValueError(f"the audio of {name} is empty")
    if not np.isfinite(samples).all():
        raise ValueError(f"the audio of {name} has samples that are NaN or infinite")
    waveform = samples.mean(axis=1)
    return (
        waveform
        if rate == sampling_rate
        else librosa.resample(waveform, orig_sr=rate, target_sr=sampling_rate)
    )


def _name(audio: dict) -> str:
    return audio["path"] or "embedded bytes"


def prepare(
    dataset: Dataset,
    processor,
    *,
    max_label_length: int,
    language: str | None = None,
    task: str | None = None,
    skip_bad_audio: bool = False,
    num_proc: int | None = None,
    description: str = "features",
    label_texts: Sequence[str] | None = None,
) -> Dataset:
    """Rows of `load_speech` as input_features (n_mels, frames; float32), labels, id, speaker, text,
    duration (in s).

    The result is on disk in the cache of `datasets`, under a name made of the rows, the state of
    their audio files and the processor; a second call reads it. input_features come out as numpy
    arrays, all else as plain Python.

    Args:
        processor: WhisperProcessor. Its feature extractor's chunk_length (30 s in every released
            Whisper) is the longest audio taken. `language` and `task`, where given, set the prefix
            tokens of its tokenizer.
        max_label_length: most tokens of a transcript, special ones included
            (`model.config.max_target_positions`).
        skip_bad_audio: leave out broken, empty and too long audio, with one warning, instead of
            raising.
        label_texts: what the labels of the rows say, where they are not written as the column text
            is. A row without text gets the label's.

    Raises:
        ValueError: bad audio (named), an empty transcript, labels over `max_label_length`, nothing
            left.
    """
    if not len(dataset):
        raise ValueError(f"{description}: there are no utterances")
    extractor = processor.feature_extractor
    if not isinstance(extractor, WhisperFeatureExtractor):
        raise ValueError(
            f"features are made with a WhisperFeatureExtractor, not with {type(extractor).__name__}"
        )
    label_texts = dataset["text"][:] if label_texts is None else list(label_texts)
    labels = _tokenize(dataset, label_texts, processor.tokenizer, max_label_length, language, task)
    texts = [
        text if text.strip() else label.strip()
        for text, label in zip(dataset["text"][:], label_texts)
    ]
    key = Hasher.hash(
        [audio_states(dataset), dataset["speaker"][:], labels, extractor.to_dict(), skip_bad_audio]
    )
    folder = os.path.join(datasets.config.HF_DATASETS_CACHE, "hf_unlearn")
    os.makedirs(folder, exist_ok=True)
    try:
        features = dataset.map(
            _extract,
            batched=True,
            batch_size=BATCH,
            writer_batch_size=BATCH,
            with_indices=True,
            fn_kwargs={
                "labels": labels,
                "texts": texts,
                "extractor": extractor,
                "skip_bad_audio": skip_bad_audio,
                "process": os.getpid(),
            },
            remove_columns=["audio"],
            features=_feature_types(extractor),
            num_proc=num_proc,
            desc=description,
            cache_file_name=os.path.join(folder, f"{key}.arrow"),
            new_fingerprint=key,
        )
    except ValueError as error:
        raise ValueError(str(error)) from None  # without the traceback of a worker process
    _report_skipped(dataset, features, description)
    return features.with_format("numpy", columns=["input_features"], output_all_columns=True)


def _tokenize(
    dataset: Dataset,
    texts: list[str],
    tokenizer,
    max_label_length: int,
    language: str | None,
    task: str | None,
):
    """Label ids of every text, special tokens included."""
    if language is not None or task is not None:
        if not isinstance(tokenizer, WhisperTokenizer):
            raise ValueError(
                "language and task are prompt tokens of Whisper's tokenizer, and "
                f"{type(tokenizer).__name__} has none: leave both out"
            )
        tokenizer.set_prefix_tokens(language=language, task=task)
    labels, words = tokenizer(texts).input_ids, tokenizer(texts, add_special_tokens=False).input_ids
    for name, text, label, word in zip(dataset["id"][:], texts, labels, words):
        if not text.strip() or not word:
            raise ValueError(
                f"utterance {name} has an empty transcript, {text!r}: leave it out of the data"
            )
        if len(label) > max_label_length:
            raise ValueError(
                f"utterance {name} has {len(label)} label tokens, over the {max_label_length} that "
                "the model "
                "takes: leave it out of the data, or cut it in two"
            )
    return labels


def audio_states(dataset: Dataset) -> list[tuple]:
    """What changes when the audio of a row does: the embedded bytes, or the file's place, size and
    time."""
    states = []
    for name, text, audio in zip(dataset["id"][:], dataset["text"][:], dataset["audio"]):
        if audio["bytes"] is not None:
            state = Hasher.hash_bytes(audio["bytes"])
        elif audio["path"] and os.path.exists(audio["path"]):
            status = os.stat(audio["path"])
            state = (audio["path"], status.st_size, status.st_mtime_ns)
        else:
            state = audio["path"]
        states.append((name, text, state))
    return states


def _feature_types(extractor: WhisperFeatureExtractor) -> Features:
    return Features(
        {
            "id": Value("string"),
            "speaker": Value("string"),
            "text": Value("string"),
            "input_features": Array2D((extractor.feature_size, extractor.nb_max_frames), "float32"),
            "labels": List(Value("int64")),
            "duration": Value("float32"),
        }
    )


def _extract(
    batch: dict, rows: list[int], labels, texts, extractor, skip_bad_audio: bool, process: int
) -> dict:
    """Features of a batch of rows; those with bad audio are dropped from it, or raise
    ValueError."""
    if os.getpid() != process:
        # a forked process waits forever for the threads that its parent had
        torch.set_num_threads(1)
    kept = {name: [] for name in _feature_types(extractor)}
    for row, name, speaker, audio in zip(rows, batch["id"], batch["speaker"], batch["audio"]):
        try:
            waveform = decode_chunk(audio, extractor)
        except ValueError as error:
            if skip_bad_audio:
                continue
            raise ValueError(
                f"utterance {name}: {error}; remove it, or pass skip_bad_audio to leave it out"
            ) from None
        features = extractor(
            waveform, sampling_rate=extractor.sampling_rate, return_tensors="np"
        ).input_features[0]
        values = (
            name,
            speaker,
            texts[row],
            features,
            labels[row],
            len(waveform) / extractor.sampling_rate,
        )
        for column, value in zip(kept.values(), values):
            column.append(value)
    return kept


def decode_chunk(audio: dict, extractor: WhisperFeatureExtractor) -> np.ndarray:
    """The waveform (samples,) of an utterance that the extractor takes whole; raises ValueError as
    `decode_audio` does."""
    waveform = decode_audio(audio, extractor.sampling_rate)
    if len(waveform) > extractor.n_samples:
        seconds = len(waveform) / extractor.sampling_rate
        raise ValueError(
            f"the audio of {_name(audio)} is {seconds:.1f} s long, over the "
            f"{extractor.chunk_length} s that the model "
            "takes"
        )
    return waveform


def _report_skipped(dataset: Dataset, features: Dataset, description: str) -> None:
    skipped = sorted(set(dataset["id"][:]) - set(features["id"][:]))
    if skipped and len(skipped) == len(dataset):
        raise ValueError(
            f"{description}: all {len(dataset)} utterances have broken, empty or too long audio"
        )
    if skipped:
        logger.warning(
            "%s: skipped %d of %d utterances with broken, empty or too long audio: %s%s",
            description, len(skipped), len(dataset), ", ".join(skipped[:5]), ", ..." if len(skipped) > 5 else "",
        )  # fmt: skip


@dataclass
class SpeechCollator:
    """Batches of prepared rows for any Trainer: input_features (n, n_mels, frames), labels (n, T)
    padded with -100.

    Where every row of labels starts with `decoder_start_token_id` it is cut, since the model puts
    it there itself when it shifts labels to decoder inputs. Rows may bring decoder_input_ids (T,)
    of their own; other columns are ignored.
    """

    processor: object
    decoder_start_token_id: int

    def __call__(self, rows: Sequence[dict]) -> dict[str, torch.Tensor]:
        labels = [torch.as_tensor(row["labels"], dtype=torch.long) for row in rows]
        if all(len(row) and row[0] == self.decoder_start_token_id for row in labels):
            labels = [row[1:] for row in labels]
        batch = {
            "input_features": torch.from_numpy(
                np.stack([np.asarray(row["input_features"], np.float32) for row in rows])
            ),
            "labels": pad_sequence(labels, batch_first=True, padding_value=-100),
        }
        if "decoder_input_ids" in rows[0]:
            inputs = [torch.as_tensor(row["decoder_input_ids"]) for row in rows]
            pad = self.processor.tokenizer.pad_token_id
            batch["decoder_input_ids"] = pad_sequence(inputs, batch_first=True, padding_value=pad)
        return batch
