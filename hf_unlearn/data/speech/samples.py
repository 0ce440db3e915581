"""Turns utterances into what a speech model trains on: its inputs and labels."""

import os
from collections.abc import Callable, Sequence

import torch
from datasets import Dataset, Features
from datasets.fingerprint import Hasher
from transformers import ProcessorMixin, SequenceFeatureExtractor
from transformers.utils import logging

from .audio import decode_chunk
from .extractors import (
    as_types,
    audio_extractor,
    extract,
    input_names,
    input_types,
    longest_audio,
    single_input,
    stored_types,
)
from .labels import BatchLabeller, ctc_complaints
from .on_demand import RowChecker, checked_rows
from .row_cache import audio_states, bad_audio, further_columns, map_cached, row_types
from .skipped import BAD_AUDIO, BAD_LABELS, good_rows, long_enough, report_skipped

logger = logging.get_logger(__name__)

# utterances that are extracted and written at once
EXTRACTION_BATCH = 16
# Models are told apart by how many frames they make of these lengths.
PROBED_LENGTHS = range(0, 500_000, 777)
# rows whose audio's states are held at once
STATES_AT_ONCE = 1000


def prepare(
    dataset: Dataset,
    processor: ProcessorMixin | SequenceFeatureExtractor,
    *,
    max_label_length: int | None = None,
    language: str | None = None,
    task: str | None = None,
    skip_bad_audio: bool = False,
    skip_bad_labels: bool = False,
    num_proc: int | None = None,
    description: str = "features",
    label_texts: Sequence[str] | None = None,
    labels: Sequence[int] | None = None,
    end_token: int | None = None,
    longest: float | None = None,
    shortest: float | None = None,
    cut: float | None = None,
    frames_of: Callable[[int], int] | None = None,
    store: str | None = "float32",
) -> Dataset:
    """Extracts the inputs and labels of rows of `load_speech`, as the model's own processor makes
    them: features or waveforms, with an attention mask if its feature extractor returns one.

    The result is stored in the cache of `datasets`. Its key is made of the rows, the state of their
    audio files and the processor; a second call reads it. With `store=None` only labels and
    durations are stored, and inputs are computed from the audio each time a row is read: in the
    workers of a data loader, if it has any.

    Args:
        processor: a processor, or with `labels` its feature extractor alone. `language` and `task`,
            if given, set the prefix tokens of a Whisper tokenizer.
        max_label_length: the most tokens of a transcript, special ones included, such as
            `longest_label(model.config)`; None for no limit.
        skip_bad_audio: leave out broken, empty, silent, too short and too long audio, with one
            warning, instead of raising.
        skip_bad_labels: the same for transcripts that the model cannot learn: empty or too long
            ones, those with characters that the tokenizer does not have, and CTC labels that are
            longer than the audio.
        description: what the progress bar and messages call the rows.
        label_texts: the texts of the labels, if they differ from the column text. A row without
            text gets that of its label.
        labels: class numbers, in place of transcripts.
        end_token: closes the labels of a tokenizer that does not do so itself.
        longest: the longest audio accepted, in seconds. By default what the feature extractor takes
            without cutting it (see `longest_audio`).
        shortest: the shortest audio accepted, in seconds, such as `shortest_audio(extractor,
            model.config)`; None for no limit.
        cut: cut longer audio to this many seconds from its start, instead of refusing it.
        frames_of: for CTC, gives the model's number of frames for the length of an input.
        store: the type in which inputs are stored, "float32" or "float16"; None to compute them
            whenever a row is read. Then only the headers of audio files are read here, and what is
            wrong behind a header is found when the row is read. (`skip_bad_audio` and `frames_of`
            need all audio to be decoded once.)

    Returns:
        Rows with the inputs, labels, id, speaker, text, duration (in s) and further columns of
        `dataset`. The inputs are numpy arrays: input_features (n_mels, frames) for Whisper and
        (frames, n_mels) for others, or input_values (samples,). All else is plain Python.

    Raises:
        ValueError: bad audio or a bad transcript (named), or no rows left.
    """
    if not len(dataset):
        raise ValueError(f"{description}: there are no utterances: give at least one")
    extractor = audio_extractor(processor)
    store = _storage(extractor, store, cut)
    longest = longest_audio(extractor) if longest is None else longest
    label = BatchLabeller(
        processor, max_label_length, language, task, label_texts, labels, end_token
    )
    # Silence may be a class, but it has no transcript.
    allow_silence = labels is not None
    skips = (skip_bad_audio, skip_bad_labels)
    checker = RowChecker(extractor, longest, allow_silence, label, *skips, frames_of)
    if store is None:
        rows = _on_demand(dataset, checker, num_proc, description)
    else:
        rows = _stored(dataset, checker, store, cut, num_proc, description)
    return rows if shortest is None else long_enough(rows, shortest, skip_bad_audio, description)


def _storage(
    extractor: SequenceFeatureExtractor, store: str | None, cut: float | None
) -> str | None:
    """The type in which inputs are stored; None to compute them on demand.

    Raises:
        ValueError: `store` is unknown, or audio is cut without being stored.
    """
    if store not in ("float32", "float16", None):
        raise ValueError(f"store is {store!r}, but must be 'float32', 'float16' or None")
    if store is not None:
        return store
    if cut is not None:
        raise ValueError("cut needs stored inputs: set store to 'float32' or 'float16'")
    if single_input(extractor):
        return None
    logger.warning_once(
        f"{type(extractor).__name__} gives more inputs than one "
        f"({', '.join(input_names(extractor))}), which are not computed on demand: they are "
        "stored in float16."
    )
    return "float16"


def _on_demand(
    dataset: Dataset, checker: RowChecker, num_proc: int | None, description: str
) -> Dataset:
    """The good rows, whose inputs are computed when they are read."""
    state = Hasher()
    for start in range(0, len(dataset), STATES_AT_ONCE):
        some = dataset.select(range(start, min(start + STATES_AT_ONCE, len(dataset))))
        state.update([audio_states(some), further_columns(some)])
    frames = checker.frames_of and [checker.frames_of(length) for length in PROBED_LENGTHS]
    state.update([checker.label.settings(), frames])
    rows = checked_rows(dataset, checker, state.hexdigest(), num_proc, description)
    if len(rows) < len(dataset):
        missing = set(dataset["id"][:]) - set(rows["id"][:])
        what = " or ".join(
            [BAD_AUDIO] * checker.skip_bad_audio + [BAD_LABELS] * checker.skip_bad_labels
        )
        report_skipped(dataset, sorted(missing), what, description)
    return rows


def _stored(
    dataset: Dataset,
    checker: RowChecker,
    store: str,
    cut: float | None,
    num_proc: int | None,
    description: str,
) -> Dataset:
    """The good rows with their inputs, which are computed now and stored."""
    skip, transcribed = checker.skip_bad_labels, not checker.allow_silence
    labels, texts, problems = checker.label({"text": dataset["text"][:]}, list(range(len(dataset))))
    kept = good_rows(dataset, problems, skip, description)
    types = stored_types(input_types(checker.extractor), store)
    options = {
        "labels": [labels[row] for row in kept],
        "texts": [texts[row] for row in kept],
        "extractor": checker.extractor,
        "longest": checker.longest,
        "cut": cut,
        "skip_bad_audio": checker.skip_bad_audio,
        "allow_silence": checker.allow_silence,
    }
    dataset = dataset.select(kept) if problems else dataset
    columns = row_types(dataset, types, transcribed=transcribed)
    prepared = _extracted(dataset, columns, options, num_proc, description)
    if checker.frames_of is not None:
        problems = ctc_complaints(prepared, list(types), checker.frames_of)
        kept = good_rows(prepared, problems, skip, description)
        prepared = prepared.select(kept) if problems else prepared
    return prepared.with_format("numpy", columns=list(types), output_all_columns=True)


def _extracted(
    dataset: Dataset, types: Features, options: dict, num_proc: int | None, description: str
) -> Dataset:
    """The rows with their inputs, from the cache if they were extracted before."""
    extractor = options["extractor"]
    content = {**options, "extractor": [type(extractor).__name__, extractor.to_dict()]}
    prepared = map_cached(
        dataset,
        _extract,
        key=Hasher.hash([audio_states(dataset), further_columns(dataset), content, str(types)]),
        types=types,
        batch_size=EXTRACTION_BATCH,
        num_proc=num_proc,
        description=description,
        types_of_columns=types,
        main_process=os.getpid(),
        **options,
    )
    missing = set(dataset["id"][:]) - set(prepared["id"][:])
    report_skipped(dataset, sorted(missing), BAD_AUDIO, description)
    return prepared


def _extract(
    batch: dict[str, list],
    rows: list[int],
    labels: list,
    texts: list[str],
    extractor: SequenceFeatureExtractor,
    longest: float | None,
    cut: float | None,
    skip_bad_audio: bool,
    allow_silence: bool,
    types_of_columns: Features,
    main_process: int,
) -> dict[str, list]:
    """The inputs of a batch of rows. A row with bad audio is dropped, or raises ValueError."""
    if os.getpid() != main_process:
        # A forked process waits forever for the threads that its parent had.
        torch.set_num_threads(1)
    extracted = {name: [] for name in types_of_columns}
    for index, (row, audio) in enumerate(zip(rows, batch["audio"])):
        try:
            rate = extractor.sampling_rate
            waveform = decode_chunk(audio, rate, longest, allow_silence, cut=cut)
            inputs = as_types(extract(extractor, waveform), types_of_columns)
        except ValueError as error:
            if skip_bad_audio:
                continue
            raise bad_audio(batch["id"][index], error) from None
        values = {
            **{name: column[index] for name, column in batch.items()},
            **inputs,
            "text": texts[row],
            "labels": labels[row],
            "duration": len(waveform) / extractor.sampling_rate,
        }
        for name, column in extracted.items():
            column.append(values[name])
    return extracted
