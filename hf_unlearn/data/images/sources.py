"""Reads images from the Hub, from folders or from tables, as uniform rows."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
from datasets import ClassLabel, Dataset, Image, Value
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

from ..media import TEXT
from ..row_checks import check_columns, check_table_suffix
from ..rows import RowKind, RowRequest, local_path, make_request
from ..sampling import first_of_each, groups_of
from ..streams import dataset_commit, load_stream, revision_option, stream_rows
from ..tables import (
    TEXT_SUFFIXES,
    first_table,
    load_as_written,
    no_such_split,
    read_table,
    warn_of_unlisted,
)
from ..uniform_rows import row_numbers, to_uniform_rows

TABLE_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".arrow")
IMAGE_SUFFIXES = tuple(ImageFolder.EXTENSIONS)


def _numbered_paths(
    paths: list[str | None], first: int, split: str, root: Path | None
) -> list[str]:
    """The paths relative to the root, numbered if they repeat; the rows' numbers if a file is
    elsewhere.

    Paths that tables of the Hub embed repeat, and do not tell splits apart.
    """
    if root is None or not all(path and Path(path).is_relative_to(root) for path in paths):
        return row_numbers(split, first, len(paths))
    ids = [Path(path).relative_to(root).as_posix() for path in paths]
    repeat = max(Counter(ids).values(), default=0) > 1
    return [f"{name}#{row}" for row, name in enumerate(ids)] if repeat else ids


IMAGES = RowKind(
    owner="class",
    owners="classes",
    content="image",
    files="images",
    sample="image",
    samples="images",
    has_text=False,
    feature=Image(decode=False),
    owner_types=int | str,
    column_options={"image": "image_column", "class": "label_column"},
    limit_option="max_images_per_class",
    default_ids=_numbered_paths,
)


def load_images(
    source: str | Path,
    *,
    split: str,
    config: str | None = None,
    image_column: str = "image",
    label_column: str = "label",
    id_column: str = "id",
    revision: str | None = None,
    streaming: bool = False,
    max_images_per_class: int | None = None,
) -> tuple[Dataset, list[str]]:
    """Loads the images of a split, and the names of all classes.

    Args:
        source: a Hub id, or a folder or table as in `ImageArguments.dataset`.
        id_column: unique image ids. Without such a column the path within the folder is the id, or
            the split and the row number.
        revision: branch, tag or commit of a Hub dataset.
        streaming: read a Hub dataset as a stream and store only the rows asked for, in the cache of
            `datasets`. Reading ends as soon as each class has `max_images_per_class`.
        max_images_per_class: keep the first ones.

    Returns:
        Rows with id, class (str) and image ({"bytes", "path"}, not decoded).
        The names of the classes in the order of their labels; sorted if the labels are texts or
        numbers.

    Raises:
        ValueError: unknown source, split or column; rows without image or class; ids that repeat;
            no rows.
    """
    request = make_request(
        IMAGES,
        source,
        config=config,
        split=split,
        columns={"id": id_column, "class": label_column, "image": image_column},
        revision=revision,
        limit=max_images_per_class,
    )
    path = local_path(request.source)
    if path is None and streaming:
        return _load_stream(replace(request, revision=dataset_commit(request.source, revision)))
    if path is not None:
        loaded, base = _load_local(path, request)
        root = path if path.is_dir() else path.parent
        rows = to_uniform_rows(
            IMAGES,
            loaded,
            request,
            request.source,
            root=root,
            find=lambda image: str(base / image),
        )
    else:
        loaded = load_as_written(
            request.source, config, request.columns, split=split, **revision_option(revision)
        )
        rows = to_uniform_rows(IMAGES, loaded, request, request.source)
    return first_of_each(IMAGES, rows, request), _class_names(loaded, label_column)


def _class_names(loaded: Dataset, column: str) -> list[str]:
    """All classes in the order of their labels."""
    feature = loaded.features[column]
    if isinstance(feature, ClassLabel):
        return list(feature.names)
    return [str(label) for label in sorted(set(loaded[column][:]))]


def _load_stream(request: RowRequest) -> tuple[Dataset, list[str]]:
    rows = load_stream(IMAGES, request, _stream)
    stream = datasets.load_dataset(
        request.source,
        request.config,
        split=request.split,
        streaming=True,
        **revision_option(request.revision),
    )
    feature = (stream.features or {}).get(request.columns["class"])
    if isinstance(feature, ClassLabel):
        return rows, list(feature.names)
    return rows, sorted(groups_of(rows, "class"))


def _stream(**request: Any) -> Iterator[dict]:
    return stream_rows(IMAGES, RowRequest(**request))


def _load_local(path: Path, request: RowRequest) -> tuple[Dataset, Path]:
    """The rows of a folder or table, and the folder that their paths are relative to."""
    check_table_suffix(IMAGES, path, TABLE_SUFFIXES)
    table = path if path.is_file() else _table_in(path, request.split)
    if table is not None:
        return _load_table(table, request.split, request.columns), table.parent
    try:
        tables = load_as_written(str(path), request.config, request.columns)
    except FileNotFoundError as error:
        raise ValueError(
            f"{path} holds no images or tables of them, so give another: {error}"
        ) from None
    if request.split not in tables:
        raise no_such_split(request.split, path, tables)
    return tables[request.split], path


def _table_in(folder: Path, split: str) -> Path | None:
    # A folder named like the split may hold images, and no table needs to stand beside it.
    beside = [] if (folder / split).is_dir() else [split]
    return first_table(folder, "metadata", f"{split}/metadata", *beside, suffixes=TABLE_SUFFIXES)


def _load_table(table: Path, split: str, columns: dict[str, str]) -> Dataset:
    """The rows of a split in a table."""
    rows = read_table(table, columns["image"])
    check_columns(IMAGES, rows.column_names, columns, table)
    holds_paths = rows.features[columns["image"]] in TEXT
    paths = [path or "" for path in rows[columns["image"]][:]] if holds_paths else []
    if table.stem == "metadata" and holds_paths:
        listed = (table.parent / path for path in paths if path)
        warn_of_unlisted(table, listed, IMAGE_SUFFIXES, "class")
    if split not in (table.stem, table.parent.name):
        rows = _rows_of_split(rows, paths, split, table)
    return _with_numbers(rows, columns["class"]) if table.suffix in TEXT_SUFFIXES else rows


def _rows_of_split(rows: Dataset, paths: list[str], split: str, table: Path) -> Dataset:
    """The rows that name the split in a column split, or else by the first folder of their path.

    If none does, the whole table is the split train.
    """
    if "split" in rows.column_names:
        names = rows["split"][:]
    else:
        names = [Path(path).parts[0] if path else "" for path in paths]
    chosen = [row for row, name in enumerate(names) if name == split]
    if chosen:
        return rows.select(chosen)
    if split != "train":
        raise no_such_split(split, table, ["train"])
    return rows


def _with_numbers(rows: Dataset, column: str) -> Dataset:
    """Casts a column of texts to numbers, which sorts the classes as numbers.

    Only if every text is written as a number is (10, not 010).
    """
    values = rows[column][:]
    if all(value is not None and re.fullmatch("0|-?[1-9][0-9]{0,17}", value) for value in values):
        return rows.cast_column(column, Value("int64"))
    return rows
