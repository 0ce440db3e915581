"""What streams of speech and of images share: rows that are stored as they arrive, files fetched where they are named."""

from collections.abc import Callable, Iterator

import datasets
import fsspec
from datasets.exceptions import DatasetGenerationError

STREAM_BATCH = 32  # rows decompressed at once


def stored(rows: Callable[..., Iterator[dict]], features: datasets.Features, **options) -> datasets.Dataset:
    """The rows of a generator in the cache of `datasets`, by `options`, all of them plain values.

    Raises:
        ValueError: as the generator does; nothing is left in the cache then.
    """
    try:
        return datasets.Dataset.from_generator(rows, features, gen_kwargs=options)
    except DatasetGenerationError as error:
        if not isinstance(error.__cause__, ValueError):
            raise
        raise ValueError(str(error.__cause__)) from None


def fetched(file: dict | None, source: str, column: str, content: str) -> dict:
    """A file of {"bytes", "path"} with its bytes, where so far it only names a remote one.

    Args:
        column, content: what its column is called in messages, and what it should hold.
    """
    if not isinstance(file, dict):
        raise ValueError(f"the {column} column of {source} holds {file!r}, not {content}")
    if file["bytes"] is None and file["path"]:
        with fsspec.open(file["path"], "rb") as opened:
            return {"bytes": opened.read(), "path": file["path"]}
    return file
