"""Turns utterances into what Whisper trains on: features, labels and batches of them."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass

import datasets
import numpy as np
import torch
from datasets import Array2D, Dataset, Features, List, Value
from datasets.fingerprint import Hasher
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    PreTrainedTokenizerBase,
    WhisperFeatureExtractor,
    WhisperProcessor,
    WhisperTokenizer,
)

from ..names import first_few
from .audio import decode_chunk

logger = logging.getLogger(__name__)

# utterances that are extracted and written at once
EXTRACTION_BATCH = 16


def prepare(
    dataset: Dataset,
    processor: WhisperProcessor,
    *,
    max_label_length: int,
    language: str | None = None,
    task: str | None = None,
    skip_bad_audio: bool = False,
    num_proc: int | None = None,
    description: str = "features",
    label_texts: Sequence[str] | None = None,
) -> Dataset:
    """Extracts the features and labels of rows of `load_speech`.

    The result is stored in the cache of `datasets`. Its key is made of the rows, the state of their
    audio files and the processor; a second call reads it.

    Args:
        processor: its feature extractor's chunk_length (30 s in every released Whisper) is the
            longest audio accepted. `language` and `task`, if given, set the prefix tokens of its
            tokenizer.
        max_label_length: the most tokens of a transcript, special ones included
            (`model.config.max_target_positions`).
        skip_bad_audio: leave out broken, empty and too long audio, with one warning, instead of
            raising.
        description: what the progress bar and messages call the rows.
        label_texts: the texts of the labels, if they differ from the column text. A row without
            text gets that of its label.

    Returns:
        Rows with input_features (n_mels, frames; float32), labels, id, speaker, text and duration
        (in s). input_features are numpy arrays, all else is plain Python.

    Raises:
        ValueError: bad audio (named), an empty transcript, labels over `max_label_length`, or no
            rows left.
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
            batch_size=EXTRACTION_BATCH,
            writer_batch_size=EXTRACTION_BATCH,
            with_indices=True,
            fn_kwargs={
                "labels": labels,
                "texts": texts,
                "extractor": extractor,
                "skip_bad_audio": skip_bad_audio,
                "main_process": os.getpid(),
            },
            remove_columns=["audio"],
            features=_feature_types(extractor),
            num_proc=num_proc,
            desc=description,
            cache_file_name=os.path.join(folder, f"{key}.arrow"),
            new_fingerprint=key,
        )
    except ValueError as error:
        # without the traceback of a worker process
        raise ValueError(str(error)) from None
    _report_skipped(dataset, features, description)
    return features.with_format("numpy", columns=["input_features"], output_all_columns=True)


def _tokenize(
    dataset: Dataset,
    texts: list[str],
    tokenizer: PreTrainedTokenizerBase,
    max_label_length: int,
    language: str | None,
    task: str | None,
) -> list[list[int]]:
    """The label ids of every text, special tokens included."""
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
                "the model takes: leave it out of the data, or cut it in two"
            )
    return labels


def audio_states(dataset: Dataset) -> list[tuple]:
    """Values, one for each row, that change if its audio does: a hash of the embedded bytes, or the
    path, size and modification time of the file."""
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
    batch: dict[str, list],
    rows: list[int],
    labels: list[list[int]],
    texts: list[str],
    extractor: WhisperFeatureExtractor,
    skip_bad_audio: bool,
    main_process: int,
) -> dict[str, list]:
    """The features of a batch of rows. A row with bad audio is dropped, or raises ValueError."""
    if os.getpid() != main_process:
        # A forked process waits forever for the threads that its parent had.
        torch.set_num_threads(1)
    extracted = {name: [] for name in _feature_types(extractor)}
    for row, name, speaker, audio in zip(rows, batch["id"], batch["speaker"], batch["audio"]):
        try:
            waveform = decode_chunk(audio, extractor)
        except ValueError as error:
            if skip_bad_audio:
                continue
            raise ValueError(
                f"utterance {name}: {error}; remove it, or pass skip_bad_audio to leave it out"
            ) from None
        rate = extractor.sampling_rate
        # (1, n_mels, frames)
        features = extractor(waveform, sampling_rate=rate, return_tensors="np").input_features
        values = {
            "id": name,
            "speaker": speaker,
            "text": texts[row],
            "input_features": features[0],
            "labels": labels[row],
            "duration": len(waveform) / rate,
        }
        for column, value in values.items():
            extracted[column].append(value)
    return extracted


def _report_skipped(dataset: Dataset, features: Dataset, description: str) -> None:
    skipped = sorted(set(dataset["id"][:]) - set(features["id"][:]))
    if not skipped:
        return
    if len(skipped) == len(dataset):
        raise ValueError(
            f"{description}: all {len(dataset)} utterances have broken, empty or too long audio"
        )
    logger.warning(
        "%s: skipped %d of %d utterances with broken, empty or too long audio: %s",
        description,
        len(skipped),
        len(dataset),
        first_few(skipped),
    )


@dataclass
class SpeechCollator:
    """Batches prepared rows for any Trainer: input_features (n, n_mels, frames), and labels (n, T)
    padded with -100.

    If every row of labels starts with `decoder_start_token_id`, that token is cut, because the
    model inserts it itself when it shifts labels to decoder inputs. Rows may bring their own
    decoder_input_ids (T,); other columns are ignored.
    """

    processor: WhisperProcessor
    decoder_start_token_id: int

    def __call__(self, rows: Sequence[dict]) -> dict[str, torch.Tensor]:
        labels = [torch.as_tensor(row["labels"], dtype=torch.long) for row in rows]
        if all(len(row) and row[0] == self.decoder_start_token_id for row in labels):
            labels = [row[1:] for row in labels]
        features = np.stack([np.asarray(row["input_features"], np.float32) for row in rows])
        batch = {
            # (n, n_mels, frames)
            "input_features": torch.from_numpy(features),
            # (n, T)
            "labels": pad_sequence(labels, batch_first=True, padding_value=-100),
        }
        if "decoder_input_ids" in rows[0]:
            inputs = [torch.as_tensor(row["decoder_input_ids"]) for row in rows]
            pad = self.processor.tokenizer.pad_token_id
            # (n, T)
            batch["decoder_input_ids"] = pad_sequence(inputs, batch_first=True, padding_value=pad)
        return batch
