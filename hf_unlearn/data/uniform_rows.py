"""Brings rows of any source into one form (see `RowKind`)."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset

from .media import as_undecoded_files
from .row_checks import check_columns, check_not_empty, check_unique, word_of
from .rows import RowKind, RowRequest


def owner_names(
    kind: RowKind, values: list, feature: Any, column: str, source: str | Path
) -> list[str]:
    """The owner of each row as text.

    Args:
        values: the rows' values in the source's own column, named `column`.
        feature: the type of that column. A `ClassLabel` gives its names.

    Raises:
        ValueError: rows without an owner, or values that cannot name one.
    """
    is_label = isinstance(feature, ClassLabel)
    missing = sum(value in (None, "") or (is_label and value == -1) for value in values)
    if missing:
        raise ValueError(
            f"{missing} of {len(values)} rows read from {source} have no {kind.owner} in column "
            f"'{column}': fill it in, or remove these rows"
        )
    if is_label:
        return feature.int2str(values)
    if not isinstance(values[0], kind.owner_types):
        raise ValueError(
            f"{kind.owner} column '{column}' of {source} holds {feature}: one number or name for "
            f"each {kind.sample} is needed"
        )
    return [str(value) for value in values]


def as_texts(values: list, feature: object) -> list[str]:
    """Values of a text column as texts; "" for missing ones. A `ClassLabel` gives its names."""
    if isinstance(feature, ClassLabel):
        return ["" if value in (None, -1) else feature.int2str(value) for value in values]
    return ["" if value is None else str(value) for value in values]


def row_numbers(split: str, first: int, count: int) -> list[str]:
    """Ids made of the split and the numbers of `count` rows from `first` on."""
    return [f"{split}-{row:09d}" for row in range(first, first + count)]


def row_ids(
    kind: RowKind,
    ids: list | None,
    paths: list[str | None],
    first: int,
    split: str,
    root: Path | None,
) -> list[str]:
    """The ids that a source gives; the kind's default ids where it gives none."""
    default = kind.default_ids(paths, first, split, root)
    if ids is None:
        return default
    return [other if name is None else str(name) for name, other in zip(ids, default)]


def to_uniform_rows(
    kind: RowKind,
    rows: Dataset,
    request: RowRequest,
    source: str | Path,
    *,
    root: Path | None = None,
    find: Callable[[str], str] = str,
) -> Dataset:
    """Rows with the columns of `kind.features`. Files that `rows` embeds are not decoded or copied.

    Args:
        source: what messages name: the source of the request, or a table in it.
        root: the folder that ids are relative to.
        find: gives the full path of a file, from its path in `rows`.

    Raises:
        ValueError: a column is missing, there are no rows, a row has no file or no owner, or ids
            repeat.
    """
    columns, split = request.columns, request.split
    check_columns(kind, rows.column_names, columns, source, request.options)
    check_not_empty(kind, len(rows), split, source)
    # `cast` leaves a format behind that hides the columns flattened below.
    rows = rows.with_format(None)
    files = as_undecoded_files(rows, columns[kind.content], kind.feature, find, source)
    # the paths without the bytes
    paths = files.flatten()[f"{kind.content}.path"][:]
    ids = rows[columns["id"]][:] if columns["id"] in rows.column_names else None
    owner = columns[kind.owner]
    named = replace(kind, owner=word_of(request.options.get(kind.owner, kind.owner)))
    values = {
        "id": row_ids(kind, ids, paths, 0, split, root),
        kind.owner: owner_names(named, rows[owner][:], rows.features[owner], owner, source),
    }
    if kind.has_text:
        texts = rows[columns["text"]][:]
        values["text"] = as_texts(texts, rows.features[columns["text"]])
    check_unique(kind, values["id"], source)
    for name, column in values.items():
        files = files.add_column(name, column, feature=kind.features[name])
    return files.select_columns(list(kind.features))
