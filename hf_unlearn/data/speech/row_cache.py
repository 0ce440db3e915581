"""What storing inputs and computing them on demand share: the state of audio, the types of prepared
rows, the cache of `datasets`, and the message about bad audio."""

import hashlib
import os
from collections.abc import Callable

import datasets
from datasets import Dataset, Features, List, Value

# What to do about an utterance whose audio cannot be used.
AUDIO_REMEDY = "remove it, or pass skip_bad_audio to leave it out"


def state_of(audio: dict) -> tuple | str | bytes | None:
    """A value that changes if the audio does: a hash of embedded bytes, or the path, size and
    modification time of the file."""
    if audio["bytes"] is not None:
        return hashlib.blake2b(audio["bytes"], digest_size=16).digest()
    try:
        status = os.stat(audio["path"])
    except (OSError, TypeError):
        return audio["path"]
    return audio["path"], status.st_size, status.st_mtime_ns


def audio_states(dataset: Dataset) -> list[tuple]:
    """Values, one for each row, that change if its id, text or audio does."""
    rows = zip(dataset["id"][:], dataset["text"][:], dataset["audio"])
    return [(name, text, state_of(audio)) for name, text, audio in rows]


def further_columns(dataset: Dataset) -> dict[str, list]:
    """The columns that `audio_states` leaves out."""
    others = [name for name in dataset.column_names if name not in ("id", "text", "audio")]
    return {name: dataset[name][:] for name in others}


def row_types(dataset: Dataset, inputs: Features, *, transcribed: bool) -> Features:
    """The types of prepared rows: those of the dataset without its audio, and of the inputs, labels
    and durations."""
    columns = {name: content for name, content in dataset.features.items() if name != "audio"}
    label = Value("int64")
    labels = List(label) if transcribed else label
    return Features({**columns, **inputs, "labels": labels, "duration": Value("float32")})


def map_cached(
    dataset: Dataset,
    function: Callable[..., dict],
    *,
    key: str,
    types: Features,
    batch_size: int,
    num_proc: int | None,
    description: str,
    **keywords: object,
) -> Dataset:
    """`dataset.map` of batches and their row numbers; a second call with the same key reads what
    the first has stored.

    Args:
        batch_size: rows that are computed and written at once.
        keywords: further arguments of the function.

    Raises:
        ValueError: as the function, without the traceback of a worker process.
    """
    folder = os.path.join(datasets.config.HF_DATASETS_CACHE, "hf_unlearn")
    os.makedirs(folder, exist_ok=True)
    try:
        return dataset.map(
            function,
            batched=True,
            batch_size=batch_size,
            writer_batch_size=batch_size,
            with_indices=True,
            fn_kwargs=keywords,
            remove_columns=dataset.column_names,
            features=types,
            num_proc=num_proc,
            desc=description,
            cache_file_name=os.path.join(folder, f"{key}.arrow"),
            new_fingerprint=key,
        )
    except ValueError as error:
        raise ValueError(str(error)) from None


def bad_audio(name: str, error: ValueError) -> ValueError:
    """The error for an utterance whose audio cannot be used."""
    return ValueError(f"utterance {name}: {error}; {AUDIO_REMEDY}")
