"""Finds samples that are both in the forget set and in the retain set, as far as that is possible
without reading large datasets."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import Subset
from transformers.utils import logging

logger = logging.get_logger(__name__)

# Datasets are compared by content up to this size in bytes.
MAX_BYTES = 2**23


def warn_of_overlap(forget_dataset: Any, retain_dataset: Any) -> None:
    """Warns with the number of samples in both datasets, where it is cheap to count them: for the
    same object or parts of it, rows of `datasets` with equal ids, and small data by content."""
    shared = shared_samples(forget_dataset, retain_dataset)
    if shared:
        logger.warning(
            f"{shared} samples of retain_dataset are in forget_dataset too, so the training would "
            "keep what it should forget. Remove them from retain_dataset."
        )


def shared_samples(forget: Any, retain: Any) -> int:
    """How many samples are known to be in both."""
    (forget, forget_places), (retain, retain_places) = _unwrapped(forget), _unwrapped(retain)
    if forget is None or retain is None:
        return 0
    if forget is retain:
        return len(set(forget_places) & set(retain_places))
    if isinstance(forget, datasets.Dataset) and isinstance(retain, datasets.Dataset):
        return _shared_rows(
            forget.with_format("arrow").select(forget_places),
            retain.with_format("arrow").select(retain_places),
        )
    if isinstance(forget, list | tuple) and isinstance(retain, list | tuple):
        return _shared_contents(
            [forget[place] for place in forget_places], [retain[place] for place in retain_places]
        )
    return 0


def _unwrapped(dataset: Any) -> tuple[Any, Sequence[int]]:
    """The dataset below a chain of `Subset`s, and the indices of the chain in it; (None, ()) for a
    stream."""
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        return None, ()
    places = range(len(dataset))
    while isinstance(dataset, Subset):
        places, dataset = [int(dataset.indices[place]) for place in places], dataset.dataset
    return dataset, places


def _shared_rows(forget: datasets.Dataset, retain: datasets.Dataset) -> int:
    """Compares rows in Arrow's format, in which nothing is decoded."""
    if "id" in forget.column_names and "id" in retain.column_names:
        places = {name: row for row, name in enumerate(_column(forget, "id"))}
        pairs = [
            (places[name], row) for row, name in enumerate(_column(retain, "id")) if name in places
        ]
        # Ids may be row numbers, which any data have: the first pairs must be equal as a whole.
        same = all(_row(forget, mine) == _row(retain, other) for mine, other in pairs[:3])
        return len(pairs) if same else 0
    if forget.column_names != retain.column_names:
        return 0
    if max(_table_bytes(forget), _table_bytes(retain)) > MAX_BYTES:
        return 0
    return _shared_contents(forget[:].to_pylist(), retain[:].to_pylist())


def _column(rows: datasets.Dataset, name: str) -> list:
    return rows.select_columns(name)[:][name].to_pylist()


def _row(rows: datasets.Dataset, place: int) -> dict:
    return rows[place : place + 1].to_pylist()[0]


def _table_bytes(rows: datasets.Dataset) -> float:
    """Estimated from the whole table, of which the rows may be a selection."""
    return rows.data.nbytes / max(len(rows.data), 1) * len(rows)


def _shared_contents(forget: list, retain: list) -> int:
    """Compares samples by identity and, if none is the same object and the data are small, by
    content."""
    known = {id(sample) for sample in forget}
    identical = sum(id(sample) in known for sample in retain)
    if identical or not forget or not retain:
        return identical
    if _bytes(forget[0]) * len(forget) + _bytes(retain[0]) * len(retain) > MAX_BYTES:
        return 0
    known = set(map(_digest, forget))
    return sum(_digest(sample) in known for sample in retain)


def _bytes(sample: Any) -> int:
    if isinstance(sample, Mapping):
        return sum(map(_bytes, sample.values()))
    if isinstance(sample, list | tuple):
        return sum(map(_bytes, sample))
    return getattr(sample, "nbytes", 64)


def _digest(sample: Any) -> bytes:
    digest = hashlib.sha256()
    for part in _parts(sample):
        digest.update(part)
    return digest.digest()


def _parts(value: Any) -> Iterator[bytes]:
    """The content of a sample, for its digest."""
    if isinstance(value, Mapping):
        for name in sorted(value, key=str):
            yield str(name).encode()
            yield from _parts(value[name])
    elif isinstance(value, list | tuple):
        yield f"[{len(value)}".encode()
        for item in value:
            yield from _parts(item)
    elif isinstance(value, torch.Tensor):
        yield f"{value.dtype}{tuple(value.shape)}".encode()
        yield value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    elif isinstance(value, np.ndarray):
        yield f"{value.dtype}{value.shape}".encode() + value.tobytes()
    elif value is None or isinstance(value, str | bytes | bool | int | float):
        yield repr(value).encode()
    else:
        # by identity: two different objects may have the same text
        yield str(id(value)).encode()
