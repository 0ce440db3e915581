"""What streams of speech and of images share: rows that are stored as they arrive, files fetched
where they are named."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import fsspec
from datasets.exceptions import DatasetGenerationError
from huggingface_hub import HfApi
from huggingface_hub.utils import RevisionNotFoundError
from transformers.utils import logging

logger = logging.get_logger(__name__)

STREAM_BATCH = 32  # rows decompressed at once


def stored(
    rows: Callable[..., Iterator[dict]], features: datasets.Features, **options
) -> datasets.Dataset:
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


def commit_of(source: str, revision: str | None) -> str | None:
    """The commit of a data set of the Hub that a branch, tag or commit (None: the main branch)
    stands for now.

    Rows are stored by it, so that other contents are other rows. Where the Hub cannot be reached,
    it is the commit that it was when it was asked last, or else the revision itself; one warning
    says which.

    Raises:
        ValueError: the data set has no such revision.
    """
    name = hashlib.sha256(f"{source}@{revision}".encode()).hexdigest()[:20]
    last = Path(datasets.config.HF_DATASETS_CACHE) / "hf_unlearn" / f"{name}.commit"
    try:
        commit = HfApi().dataset_info(source, revision=revision).sha
    except RevisionNotFoundError:
        raise ValueError(
            f"{source} has no revision {revision!r}: give a branch, tag or commit of it"
        ) from None
    except Exception as error:  # offline, gated, no such set: reading it will say so, if its rows are not stored yet
        known = last.read_text() if last.is_file() else revision
        used = (
            f"revision {known}"
            if known
            else "rows stored without a revision, however old they are,"
        )
        logger.warning_once(
            f"The Hub does not say what the commit of {source} is ({type(error).__name__}): {used} "
            "is used."
        )
        return known
    last.parent.mkdir(parents=True, exist_ok=True)
    last.write_text(commit)
    return commit


def at(revision: str | None) -> dict:
    """Keywords of `datasets.load_dataset`."""
    return {} if revision is None else {"revision": revision}


def fetched(file: dict | None, source: str, column: str, content: str) -> dict:
    """A file of {"bytes", "path"} with its bytes, where so far it only names a remote one.

    Args:
        column, content: what its column is called in messages, and what it should hold.
    """
    if not isinstance(file, dict):
        raise ValueError(f"the {column} column of {source} holds {file!r}, not {content}")
    content, path = file.get("bytes"), file.get("path")
    if content is None and path:
        try:
            with fsspec.open(path, "rb") as opened:
                content = opened.read()
        except OSError as error:
            raise ValueError(
                f"the {column} column of {source} names {path}, which cannot be opened: {error}"
            ) from None
    return {"bytes": content, "path": path}
