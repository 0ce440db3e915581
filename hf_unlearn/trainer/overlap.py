"""Whether samples to forget are in the retain set, too, as far as it can be told without reading
both."""

import hashlib
from collections.abc import Mapping

import datasets
import numpy as np
import torch
from torch.utils.data import Subset
from transformers.utils import logging

logger = logging.get_logger(__name__)

BYTES = 2**23  # so much of both data sets is compared by content


def warn_of_overlap(forget_dataset, retain_dataset) -> None:
    """One warning with the number of samples that are in both, where it is cheap to tell: the same
    object, parts of the same one, rows of `datasets` with the same id, and small data by its
    content."""
    shared = shared_samples(forget_dataset, retain_dataset)
    if shared:
        logger.warning(
            f"{shared} samples of retain_dataset are in forget_dataset, too: what is to be "
            "forgotten is kept with them. Take "
            "them out of retain_dataset."
        )


def shared_samples(forget, retain) -> int:
    """How many are known to be in both."""
    (forget, some), (retain, others) = _unwrapped(forget), _unwrapped(retain)
    if forget is None or retain is None:
        return 0
    if forget is retain:
        return len(set(some) & set(others))
    if isinstance(forget, datasets.Dataset) and isinstance(retain, datasets.Dataset):
        return _shared_rows(
            forget.with_format("arrow").select(some), retain.with_format("arrow").select(others)
        )
    if isinstance(forget, list | tuple) and isinstance(retain, list | tuple):
        return _shared_contents(
            [forget[place] for place in some], [retain[place] for place in others]
        )
    return 0


def _unwrapped(dataset):
    """What a chain of `Subset`s is a part of, and which part; (None, ()) where it has no length."""
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        return None, ()
    places = range(len(dataset))
    while isinstance(dataset, Subset):
        places, dataset = [int(dataset.indices[place]) for place in places], dataset.dataset
    return dataset, places


def _shared_rows(forget: datasets.Dataset, retain: datasets.Dataset) -> int:
    """Of rows in Arrow's format, in which nothing is decoded."""
    if "id" in forget.column_names and "id" in retain.column_names:
        places = {name: row for row, name in enumerate(_column(forget, "id"))}
        pairs = [
            (places[name], row) for row, name in enumerate(_column(retain, "id")) if name in places
        ]
        # Row numbers are ids in any data: the first samples themselves must be the same.
        same = all(_row(forget, mine) == _row(retain, its) for mine, its in pairs[:3])
        return len(pairs) if same else 0
    if forget.column_names != retain.column_names or max(_size(forget), _size(retain)) > BYTES:
        return 0
    return _shared_contents(forget[:].to_pylist(), retain[:].to_pylist())


def _column(rows: datasets.Dataset, name: str) -> list:
    return rows.select_columns(name)[:][name].to_pylist()


def _row(rows: datasets.Dataset, place: int) -> dict:
    return rows[place : place + 1].to_pylist()[0]


def _size(rows: datasets.Dataset) -> float:
    return rows.data.nbytes / max(len(rows.data), 1) * len(rows)


def _shared_contents(forget: list, retain: list) -> int:
    known = {id(sample) for sample in forget}
    alike = sum(id(sample) in known for sample in retain)
    if (
        alike
        or not (forget and retain)
        or _bytes(forget[0]) * len(forget) + _bytes(retain[0]) * len(retain) > BYTES
    ):
        return alike
    known = set(map(_digest, forget))
    return sum(_digest(sample) in known for sample in retain)


def _bytes(sample) -> int:
    if isinstance(sample, Mapping):
        return sum(map(_bytes, sample.values()))
    if isinstance(sample, list | tuple):
        return sum(map(_bytes, sample))
    return getattr(sample, "nbytes", 64)


def _digest(sample) -> bytes:
    found = hashlib.sha256()
    for part in _parts(sample):
        found.update(part)
    return found.digest()


def _parts(value):
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
        yield str(id(value)).encode()  # the texts of two different objects may be the same
