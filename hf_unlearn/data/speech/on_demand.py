"""Utterances whose inputs are computed from the stored audio whenever a row is read."""

import json
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa
import transformers
from datasets import Audio, Dataset
from datasets.features.features import register_feature
from datasets.fingerprint import Hasher
from transformers import SequenceFeatureExtractor

from .audio import audio_seconds, decode_chunk
from .extractors import extract, input_names
from .labels import ctc_complaint
from .row_cache import AUDIO_REMEDY, bad_audio, map_cached, row_types, state_of

CHECKED_AT_ONCE = 100
# of inputs in memory, in each process
KEPT_BYTES = 256 * 2**20


class Label(Protocol):
    """Labels rows."""

    def __call__(
        self, batch: dict[str, list], rows: list[int]
    ) -> tuple[list, list[str], dict[int, str]]:
        """Labels, texts and {index in the batch: complaint} of a batch of rows.

        Args:
            rows: their numbers.
        """

    def settings(self) -> Any:
        """What the labels depend on besides the rows."""


@dataclass
class SpeechInput:
    """A column that stores audio, and gives a model's input when a row is read: a feature type of
    `datasets`, as Audio and Image are. Reading other columns decodes nothing.

    Attributes:
        extractor: the feature extractor, as JSON.
        longest, allow_silence: as for `decode_chunk`.
    """

    extractor: str
    longest: float | None
    allow_silence: bool
    dtype: ClassVar[str] = "dict"
    pa_type: ClassVar[pa.DataType] = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    _type: str = field(default="SpeechInput", init=False, repr=False)

    def __call__(self) -> pa.DataType:
        return self.pa_type

    def encode_example(self, value: dict) -> dict:
        return value

    def cast_storage(self, storage: pa.Array) -> pa.Array:
        return storage

    def decode_example(self, value: dict, token_per_repo_id: dict | None = None) -> np.ndarray:
        """The input of one utterance, as `extract` makes it.

        Raises:
            ValueError: as `decode_chunk` and `extract` do, with what to do about it.
        """
        key = (self.extractor, self.longest, self.allow_silence, state_of(value))
        inputs = _inputs.get(key)
        if inputs is None:
            try:
                inputs = self._compute(value)
            except ValueError as error:
                raise ValueError(f"{error}; {AUDIO_REMEDY}") from None
            _inputs.keep(key, inputs)
        # The caller may change it.
        return inputs.copy()

    def _compute(self, value: dict) -> np.ndarray:
        extractor = _extractor(self.extractor)
        waveform = decode_chunk(
            value, extractor.sampling_rate, self.longest, allow_silence=self.allow_silence
        )
        return extract(extractor, waveform)[input_names(extractor)[0]]

    def stored(self) -> Audio:
        """The type of the audio that the column stores (see `media.as_stored`)."""
        return Audio(decode=False)

    @classmethod
    def of(
        cls, extractor: SequenceFeatureExtractor, longest: float | None, allow_silence: bool
    ) -> "SpeechInput":
        written = extractor.to_json_string()
        _EXTRACTORS[written] = extractor
        return cls(written, longest, allow_silence)


class InputCache:
    """Keeps inputs in memory up to `limit` bytes; those that were not used for the longest time are
    dropped first. A data loader's workers have one each."""

    def __init__(self, limit: int):
        self.limit, self.size = limit, 0
        self._kept: OrderedDict[tuple, np.ndarray] = OrderedDict()

    def get(self, key: tuple) -> np.ndarray | None:
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def keep(self, key: tuple, values: np.ndarray) -> None:
        self._kept[key] = values
        self.size += values.nbytes
        while self.size > self.limit:
            _, oldest = self._kept.popitem(last=False)
            self.size -= oldest.nbytes


_inputs = InputCache(KEPT_BYTES)
with warnings.catch_warnings():
    # `register_feature` warns that it is experimental.
    warnings.simplefilter("ignore", UserWarning)
    register_feature(SpeechInput, "SpeechInput")
# Feature extractors by their JSON. A process that has not made the rows builds them again.
_EXTRACTORS: dict[str, SequenceFeatureExtractor] = {}


def _extractor(written: str) -> SequenceFeatureExtractor:
    if written not in _EXTRACTORS:
        settings = json.loads(written)
        kind = getattr(transformers, settings["feature_extractor_type"])
        _EXTRACTORS[written] = kind.from_dict(settings)
    return _EXTRACTORS[written]


@dataclass
class RowChecker:
    """Checks a batch of rows and adds their labels and durations: a function for `Dataset.map`.

    Attributes:
        extractor, longest, allow_silence: what audio is accepted. Only the headers of audio files
            are read, unless the next three need more.
        skip_bad_audio: leaves out rows with bad audio, for which all audio has to be decoded.
        frames_of: as for `prepare`. It needs the lengths of the inputs.
    """

    extractor: SequenceFeatureExtractor
    longest: float | None
    allow_silence: bool
    label: Label
    skip_bad_audio: bool
    skip_bad_labels: bool
    frames_of: Callable[[int], int] | None

    def __call__(self, batch: dict[str, list], rows: list[int]) -> dict[str, list]:
        labels, texts, complaints = self.label(batch, rows)
        kept, durations = [], []
        for index, audio in enumerate(batch["audio"]):
            duration = self._duration(batch["id"][index], audio, labels[index], complaints, index)
            if duration is not None:
                kept.append(index)
                durations.append(duration)
        columns = {**batch, "text": texts, "labels": labels, self.column: batch["audio"]}
        del columns["audio"]
        chosen = {name: [column[index] for index in kept] for name, column in columns.items()}
        return {**chosen, "duration": durations}

    def _duration(
        self, name: str, audio: dict, labels: list, complaints: dict[int, str], index: int
    ) -> float | None:
        """The row's duration in seconds; None if it is left out."""
        complaint = complaints.get(index)
        duration = None
        if complaint is None:
            try:
                duration, length = self._measure(audio)
            except ValueError as error:
                if self.skip_bad_audio:
                    return None
                raise bad_audio(name, error) from None
            if self.frames_of is not None:
                complaint = ctc_complaint(labels, length, self.frames_of)
        if complaint is not None and not self.skip_bad_labels:
            raise ValueError(f"utterance {name} {complaint}")
        return duration if complaint is None else None

    def _measure(self, audio: dict) -> tuple[float, int | None]:
        """The duration in seconds, and the length of the first input where it is needed."""
        rate = self.extractor.sampling_rate
        if self.frames_of is None and not self.skip_bad_audio:
            return audio_seconds(audio, rate, self.longest), None
        waveform = decode_chunk(audio, rate, self.longest, allow_silence=self.allow_silence)
        length = None
        if self.frames_of is not None:
            length = len(extract(self.extractor, waveform)[self.column])
        return len(waveform) / rate, length

    @property
    def column(self) -> str:
        """The model's input."""
        return input_names(self.extractor)[0]


def checked_rows(
    dataset: Dataset, checker: RowChecker, state: object, num_proc: int | None, description: str
) -> Dataset:
    """The good rows, with their labels, durations and inputs. No inputs are stored, and memory does
    not grow with the number of rows.

    Args:
        state: the key under which `datasets` keeps the result. It changes with the rows and their
            audio.

    Raises:
        ValueError: a row is bad and may not be left out.
    """
    extractor = checker.extractor
    content = [type(extractor).__name__, extractor.to_dict(), checker.longest]
    options = [checker.skip_bad_audio, checker.skip_bad_labels, checker.allow_silence]
    key = Hasher.hash(["on demand", state, content, options])
    types = row_types(
        dataset, {checker.column: dataset.features["audio"]}, transcribed=not checker.allow_silence
    )
    rows = map_cached(
        dataset,
        _call,
        key=key,
        types=types,
        batch_size=CHECKED_AT_ONCE,
        num_proc=num_proc,
        description=description,
        checker=checker,
    )
    column = SpeechInput.of(extractor, checker.longest, checker.allow_silence)
    return rows.cast_column(checker.column, column)


def _call(batch: dict[str, list], rows: list[int], checker: RowChecker) -> dict[str, list]:
    return checker(batch, rows)
