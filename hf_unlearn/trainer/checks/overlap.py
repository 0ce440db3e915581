"""Finds samples that are both in the forget set and in the retain set, as far as that is possible
without reading large datasets."""

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import Subset
from transformers.utils import logging

from ..batches.seeded import seeded

logger = logging.get_logger(__name__)

# Datasets are compared by content up to this size in bytes (rows of `datasets`, as stored), or up
# to this number of samples, if these can be read in this time in seconds.
MAX_BYTES, MAX_SAMPLES, MAX_TIME = 2**27, 2048, 1.0

# Rows of `datasets` that are read together.
AT_ONCE = 64


class _NotCompared(Exception):
    """Why datasets are not compared by content."""


def warn_of_overlap(forget_dataset: Any, retain_dataset: Any, name: str = "forget_dataset") -> None:
    """Warns with the number of samples in both datasets, where it is cheap to count them: for the
    same object or parts of it, rows of `datasets` with equal ids, and data of moderate size by
    content. The log (at level INFO) says where that was too much.

    Args:
        name: what messages call the samples to forget.

    Raises:
        ValueError: all samples of retain_dataset are in forget_dataset.
    """
    try:
        shared = shared_samples(forget_dataset, retain_dataset)
    except _NotCompared as reason:
        logger.info(f"Not checked whether retain_dataset has samples of {name}: {reason}.")
        return
    if shared and shared == len(retain_dataset):
        raise ValueError(
            f"all {shared} samples of retain_dataset are in {name} too: give other samples to keep"
        )
    if shared:
        logger.warning(
            f"{shared} samples of retain_dataset are in {name} too, so the training would keep "
            "what it should forget. Remove them from retain_dataset."
        )


def shared_samples(forget: Any, retain: Any) -> int:
    """How many samples are known to be in both.

    Raises:
        _NotCompared: it is too much work to tell.
    """
    if forget is None or retain is None:
        return 0
    (forget, forget_indices), (retain, retain_indices) = _unwrap(forget), _unwrap(retain)
    if forget is None or retain is None:
        raise _NotCompared("one of them is a stream")
    if forget is retain:
        return len(set(forget_indices) & set(retain_indices))
    if isinstance(forget, datasets.Dataset) and isinstance(retain, datasets.Dataset):
        return _shared_rows(
            forget.with_format("arrow").select(forget_indices),
            retain.with_format("arrow").select(retain_indices),
        )
    # Only plain lists keep their samples alive. Objects that are made at each access may get the
    # same id one after the other.
    if type(forget) in (list, tuple) and type(retain) in (list, tuple):
        ids = {id(forget[index]) for index in forget_indices}
        if identical := sum(id(retain[index]) in ids for index in retain_indices):
            return identical
    return _shared_contents(forget, forget_indices, retain, retain_indices)


def _unwrap(dataset: Any) -> tuple[Any, Sequence[int]]:
    """The dataset below a chain of `Subset`s, and the indices of the chain in it; (None, ()) for a
    stream."""
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        return None, ()
    indices = range(len(dataset))
    while isinstance(dataset, Subset):
        indices, dataset = [int(dataset.indices[index]) for index in indices], dataset.dataset
    return dataset, indices


# ---- rows of datasets ----------------------------------------------------------------------------


def _shared_rows(forget: datasets.Dataset, retain: datasets.Dataset) -> int:
    """Compares rows in Arrow's format, in which nothing is decoded."""
    if "id" in forget.column_names and "id" in retain.column_names:
        row_of = {name: row for row, name in enumerate(_column(forget, "id"))}
        pairs = [
            (row_of[name], row) for row, name in enumerate(_column(retain, "id")) if name in row_of
        ]
        # Equal ids may be mere row numbers, so the rows of the first pairs must be equal, too.
        if pairs and all(_row(forget, mine) == _row(retain, other) for mine, other in pairs[:3]):
            return len(pairs)
    columns = sorted({*forget.column_names} & {*retain.column_names} - {"id"})
    # Numbers alone, such as labels, do not tell samples apart.
    if not any(not _is_number(forget.data.schema.field(name).type) for name in columns):
        return 0
    forget, retain = forget.select_columns(columns), retain.select_columns(columns)
    if _table_bytes(forget) + _table_bytes(retain) > MAX_BYTES:
        raise _NotCompared(f"their rows have more than {MAX_BYTES >> 20} MiB")
    digests = set(_row_digests(forget, columns))
    return sum(digest in digests for digest in _row_digests(retain, columns))


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_primitive(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)


def _column(rows: datasets.Dataset, name: str) -> list:
    return rows.select_columns(name)[:][name].to_pylist()


def _row(rows: datasets.Dataset, index: int) -> dict:
    return rows[index : index + 1].to_pylist()[0]


def _table_bytes(rows: datasets.Dataset) -> float:
    """Estimated from the whole table, of which the rows may be a selection."""
    return rows.data.nbytes / max(len(rows.data), 1) * len(rows)


def _row_digests(rows: datasets.Dataset, columns: list[str]) -> Iterator[bytes]:
    for start in range(0, len(rows), AT_ONCE):
        for batch in rows[start : start + AT_ONCE].select(columns).combine_chunks().to_batches():
            for index in range(len(batch)):
                # A copy of the row alone, whose bytes do not depend on its index.
                yield hashlib.sha256(batch.take([index]).serialize()).digest()


# ---- any datasets --------------------------------------------------------------------------------


def _shared_contents(
    forget: Any, forget_indices: Sequence[int], retain: Any, retain_indices: Sequence[int]
) -> int:
    """Compares samples by content, after reading all of both datasets."""
    if len(forget_indices) + len(retain_indices) > MAX_SAMPLES:
        raise _NotCompared(f"together they have more than {MAX_SAMPLES} samples")
    deadline = time.monotonic() + MAX_TIME
    digests = set(_digests(forget, forget_indices, deadline))
    return sum(digest in digests for digest in _digests(retain, retain_indices, deadline))


def _digests(dataset: Any, indices: Sequence[int], deadline: float) -> Iterator[bytes]:
    for index in indices:
        if time.monotonic() > deadline:
            raise _NotCompared(f"reading their samples takes longer than {MAX_TIME:g} s")
        try:
            # the same random numbers for all, so that random augmentation hides nothing
            with seeded(0):
                sample = dataset[index]
        except Exception as error:
            # of many types: broken samples are dealt with in training
            raise _NotCompared(f"sample {index} cannot be read ({error})") from error
        yield _digest(sample)


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
    elif hasattr(value, "tobytes"):
        # an image
        yield value.tobytes()
    else:
        # Two different objects may have the same text, and one after the other the same id.
        raise _NotCompared(f"their samples hold objects of the type {type(value).__name__}")
