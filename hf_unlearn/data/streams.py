"""Reads a dataset of the Hub as a stream, and stores only the rows asked for."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import datasets
import fsspec
from datasets.exceptions import DatasetGenerationError
from huggingface_hub import HfApi
from huggingface_hub.utils import RevisionNotFoundError
from transformers.utils import logging

from ..files import written_whole
from .row_checks import check_columns, check_not_empty, check_wanted
from .rows import RowKind, RowRequest
from .sampling import FirstOfEach
from .tables import load_as_written
from .uniform_rows import as_texts, owner_names, row_ids, to_uniform_rows

logger = logging.get_logger(__name__)

# rows that are decompressed at once
STREAM_BATCH = 32


def load_stream(
    kind: RowKind, request: RowRequest, generate: Callable[..., Iterator[dict]]
) -> datasets.Dataset:
    """The uniform rows of a stream, from the cache of `datasets` if they were read before.

    Args:
        request: its revision is a commit.
        generate: a module-level function that calls `stream_rows` with the fields of the request.
            Its name and these fields are the key of the cache.

    Raises:
        ValueError: as `stream_rows` and `to_uniform_rows` do; nothing is left in the cache then.
    """
    try:
        rows = datasets.Dataset.from_generator(generate, kind.features, gen_kwargs=asdict(request))
    except DatasetGenerationError as error:
        if not isinstance(error.__cause__, ValueError):
            raise
        raise ValueError(str(error.__cause__)) from None
    columns = {name: name for name in kind.features}
    return to_uniform_rows(kind, rows, replace(request, columns=columns), request.source)


def stream_rows(kind: RowKind, request: RowRequest) -> Iterator[dict]:
    """The first rows of each owner as they arrive, in the form of `kind.features`.

    Reading ends as soon as each owner asked for (all classes of a `ClassLabel`, if none is named)
    has as many rows as the request allows.

    Raises:
        ValueError: a column is missing, there are no rows, a row has no owner, an owner asked for
            is unknown, or a file cannot be opened.
    """
    source, columns, split = request.source, request.columns, request.split
    first, seen, count = FirstOfEach(request), set(), 0
    stream = load_as_written(
        source,
        request.config,
        columns,
        split=split,
        streaming=True,
        **revision_option(request.revision),
    )
    features = stream.features or {}
    feature, of_text = features.get(columns[kind.owner]), features.get(columns.get("text"))
    all_owners = feature.names if isinstance(feature, datasets.ClassLabel) else None
    expected = request.owners or all_owners
    # Arrow batches: plain iteration re-encodes every Audio, which needs torchcodec.
    for batch in stream.with_format("arrow").iter(STREAM_BATCH):
        check_columns(kind, batch.column_names, columns, source, request.options)
        values = batch[columns[kind.owner]].to_pylist()
        owners = owner_names(kind, values, feature, columns[kind.owner], source)
        seen.update(owners)
        for position, owner in enumerate(owners):
            if first.accept(owner):
                row = batch.slice(position, 1).to_pylist()[0]
                if kind.has_text:
                    (row[columns["text"]],) = as_texts([row[columns["text"]]], of_text)
                yield _uniform_row(kind, row, owner, request, count + position)
        count += len(owners)
        if expected and first.is_complete(expected):
            return
    check_not_empty(kind, count, split, source)
    check_wanted(kind, request, seen)


def _uniform_row(kind: RowKind, row: dict, owner: str, request: RowRequest, number: int) -> dict:
    columns = request.columns
    file = fetch_file(row[columns[kind.content]], request.source, kind.content, kind.files)
    ids = [row.get(columns["id"])]
    (name,) = row_ids(kind, ids, [file["path"]], number, request.split, None)
    text = {"text": row[columns["text"]]} if kind.has_text else {}
    return {"id": name, kind.owner: owner, **text, kind.content: file}


def dataset_commit(source: str, revision: str | None) -> str | None:
    """The commit that a branch, tag or commit of a Hub dataset (None: the main branch) stands for.

    Streamed rows are stored by it, so that a changed dataset is read again. If the Hub cannot be
    reached, it is the commit of the last time that the Hub could be, or else the revision itself;
    one warning says which.

    Raises:
        ValueError: the dataset has no such revision.
    """
    key = hashlib.sha256(f"{source}@{revision}".encode()).hexdigest()[:20]
    last = Path(datasets.config.HF_DATASETS_CACHE) / "hf_unlearn" / f"{key}.commit"
    try:
        commit = HfApi().dataset_info(source, revision=revision).sha
    except RevisionNotFoundError:
        raise ValueError(
            f"{source} has no revision {revision!r}: give a branch, tag or commit of it"
        ) from None
    # Offline, gated, or no such dataset: reading it raises with the reason, unless its rows are
    # stored already.
    except Exception as error:
        fallback = last.read_text() if last.is_file() else revision
        used = f"revision {fallback} is used"
        if not fallback:
            used = "rows stored without a revision are used, however old they are"
        logger.warning_once(
            f"The Hub does not say what the commit of {source} is ({type(error).__name__}): {used}."
        )
        return fallback
    with written_whole(last) as partial:
        partial.write_text(commit)
    return commit


def revision_option(revision: str | None) -> dict[str, str]:
    """The keyword of `datasets.load_dataset`; empty if there is no revision."""
    return {} if revision is None else {"revision": revision}


def fetch_file(file: dict | None, source: str, column: str, expected: str) -> dict:
    """A file {"bytes", "path"} with its bytes, which are downloaded if only its path is given.

    Args:
        column, expected: for messages: what the file's column is called, and what it should hold.

    Raises:
        ValueError: the value is not a file, or the file cannot be opened.
    """
    if not isinstance(file, dict):
        raise ValueError(
            f"the {column} column of {source} holds {file!r}, not {expected}: name another column"
        )
    content, path = file.get("bytes"), file.get("path")
    if content is None and path:
        try:
            with fsspec.open(path, "rb") as opened:
                content = opened.read()
        except OSError as error:
            raise ValueError(
                f"the {column} column of {source} names {path}, which cannot be opened ({error}): "
                "put the file there, or remove its row"
            ) from None
    return {"bytes": content, "path": path}
