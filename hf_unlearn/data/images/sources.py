"""Where images come from (the Hub, folders, tables), read as uniform rows."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path

import datasets
from datasets import ClassLabel, Features, Image, Value
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

from ..files import STORED, TEXT, undecoded
from ..streams import STREAM_BATCH, at, commit_of, fetched, stored
from ..tables import TEXTS, first_table, load_as_written, read_table, warn_of_unlisted

ROWS = Features({"id": Value("string"), "class": Value("string"), "image": STORED})
SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".arrow")  # of tables
PICTURES = tuple(suffix for suffix in ImageFolder.EXTENSIONS)


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
) -> tuple[datasets.Dataset, list[str]]:
    """Images of a split: rows with id, class (str) and image ({"bytes", "path"}, not decoded), and
    all class names.

    Args:
        source: Hub id, or a folder or table as in `ImageArguments.dataset`.
        id_column: without such a column, the id is the path within the folder, or the split and the
            row number.
        revision: branch, tag or commit of a Hub set.
        streaming: read a Hub set as it arrives, store only the rows asked for in the cache of
            `datasets`, and end as soon as each class has `max_images_per_class`.
        max_images_per_class: keeps the first ones.

    Returns:
        rows; names of the classes in the order of their labels (sorted, where the labels are texts
        or numbers).

    Raises:
        ValueError: unknown source, split or column; rows without image or class; ids that repeat;
            no rows.
    """
    if max_images_per_class is not None and max_images_per_class < 1:
        raise ValueError(
            f"max_images_per_class is {max_images_per_class}: give a positive number, "
            "or none for all"
        )
    columns = {"id": id_column, "class": label_column, "image": image_column}
    source = os.path.expanduser(str(source))
    root = base = None
    if os.path.exists(source):
        root = Path(source).absolute()
        rows, base = _load_local(root, config, split, columns)
        root = root if root.is_dir() else root.parent
    elif os.path.isabs(source) or source.startswith(".") or source.count("/") > 1:
        raise ValueError(f"no file or folder {source}")
    elif streaming:
        rows, names = _load_stream(source, config, split, columns, revision, max_images_per_class)
        return _standardise(rows, dict(zip(columns, columns)), source, split)[0], names
    else:
        rows = load_as_written(source, config, columns, split=split, **at(revision))
    rows, names = _standardise(rows, columns, source, split, root, base)
    return _first_of_each(rows, max_images_per_class), names


def check_classes(wanted: Iterable[str], known: Iterable[str], source: str | Path) -> None:
    """Raises ValueError, with the nearest names, where one of `wanted` is not among `known`."""
    known = sorted(set(known))
    for name in wanted:
        if name not in known:
            nearest = ", ".join(repr(near) for near in get_close_matches(name, known, cutoff=0))
            raise ValueError(
                f"unknown class {name!r} in {source}: the nearest of its {len(known)} "
                f"classes: {nearest}"
            )


def _load_local(source: Path, config: str | None, split: str, columns: dict[str, str]):
    """Rows, and the folder that their paths are relative to."""
    if source.is_file() and source.suffix not in SUFFIXES:
        raise ValueError(
            f"{source} is no table of images: give one that ends in "
            f"{', '.join(SUFFIXES)}, or a folder"
        )
    table = source if source.is_file() else _table_in(source, split)
    if table is not None:
        return _of_table(table, split, columns), table.parent
    try:
        tables = load_as_written(str(source), config, columns)
    except FileNotFoundError as error:
        raise ValueError(f"{source} holds no images or tables of them: {error}") from None
    if split not in tables:
        raise ValueError(f"no split '{split}' in {source}; it holds {', '.join(map(str, tables))}")
    return tables[split], source


def _table_in(folder: Path, split: str) -> Path | None:
    alone = [] if (folder / split).is_dir() else [split]
    return first_table(folder, "metadata", f"{split}/metadata", *alone, suffixes=SUFFIXES)


def _of_table(table: Path, split: str, columns: dict[str, str]) -> datasets.Dataset:
    """The rows of a split: of its own table; or where a column split, or the folder of the image,
    says so."""
    whole = rows = read_table(table, columns["image"])
    _check_columns(rows.column_names, columns, table)
    are_paths = rows.features[columns["image"]] in TEXT
    if table.stem == "metadata" and are_paths:
        warn_of_unlisted(
            table,
            (table.parent / path for path in whole[columns["image"]][:] if path),
            PICTURES,
            "class",
        )
    if split not in (table.stem, table.parent.name):
        folders = (
            [Path(path or "").parts[0] if path else "" for path in rows[columns["image"]][:]]
            if are_paths
            else []
        )
        names = rows["split"][:] if "split" in rows.column_names else folders
        chosen = [row for row, name in enumerate(names) if name == split]
        rows = rows.select(chosen) if chosen else _only_split(rows, split, table)
    return _with_numbers(rows, columns["class"]) if table.suffix in TEXTS else rows


def _only_split(rows: datasets.Dataset, split: str, table: Path) -> datasets.Dataset:
    if split != "train":
        raise ValueError(f"no split '{split}' in {table}; it holds train")
    return rows


def _with_numbers(rows: datasets.Dataset, column: str) -> datasets.Dataset:
    """A column of texts that are all numbers, written as numbers are (10, not 010), becomes one of
    numbers, which sorts them."""
    values = rows[column][:]
    if all(value is not None and re.fullmatch("0|-?[1-9][0-9]{0,17}", value) for value in values):
        return rows.cast_column(column, Value("int64"))
    return rows


def _check_columns(names: list[str], columns: dict[str, str], source: str | Path) -> None:
    for role in ("image", "class"):
        if columns[role] not in names:
            hint = ": images of one folder only have no class" if names == ["image"] else ""
            option = {"image": "image_column", "class": "label_column"}[role]
            raise ValueError(
                f"no {role} column '{columns[role]}' ({option}) in {source}; its columns are "
                f"{', '.join(names)}{hint}"
            )


def _standardise(
    rows,
    columns: dict[str, str],
    source,
    split: str,
    root: Path | None = None,
    base: Path | None = None,
):
    """root: the folder that ids are relative to; base: the one that paths are relative to."""
    _check_columns(rows.column_names, columns, source)
    if not len(rows):
        raise ValueError(f"split '{split}' of {source} holds no images")
    rows = rows.with_format(None)
    classes, names = _class_names(
        rows[columns["class"]][:], rows.features[columns["class"]], columns["class"], source
    )
    find = (lambda path: str(base / path)) if base else str
    images = undecoded(rows, columns["image"], Image(decode=False), find, source)
    paths = images.flatten()["image.path"][:]  # without the bytes
    given = rows[columns["id"]][:] if columns["id"] in rows.column_names else None
    ids = _ids(given, paths, split, root, source)
    for name, values in {"id": ids, "class": classes}.items():
        images = images.add_column(name, values, feature=ROWS[name])
    return images.select_columns(list(ROWS)), names


def _class_names(labels: list, feature, column: str, source) -> tuple[list[str], list[str]]:
    """The class of each row, and all classes in the order of their labels."""
    missing = sum(
        label is None or label == "" or (label == -1 and isinstance(feature, ClassLabel))
        for label in labels
    )
    if missing:
        raise ValueError(
            f"{missing} of {len(labels)} rows of {source} have no class in column '{column}'"
        )
    if isinstance(feature, ClassLabel):
        return feature.int2str(labels), list(feature.names)
    if not isinstance(labels[0], int | str):
        raise ValueError(
            f"label column '{column}' of {source} holds {feature}: one number or name per image is "
            "needed"
        )
    return [str(label) for label in labels], [str(label) for label in sorted(set(labels))]


def _ids(given: list | None, paths: list, split: str, root: Path | None, source) -> list[str]:
    inside = root is not None and all(path and Path(path).is_relative_to(root) for path in paths)
    if given is not None:
        ids = [str(name) for name in given]
    elif inside:
        ids = [Path(path).relative_to(root).as_posix() for path in paths]
    else:  # paths in tables of the Hub repeat, and say nothing of the split
        ids = [f"{split}-{row:09d}" for row in range(len(paths))]
    repeated = [name for name, count in Counter(ids).items() if count > 1]
    if repeated and given is not None:
        raise ValueError(
            f"{len(repeated)} ids of {source} are not unique, among them '{repeated[0]}': name "
            "another id_column"
        )
    return [f"{name}#{row}" for row, name in enumerate(ids)] if repeated else ids


def _first_of_each(rows: datasets.Dataset, limit: int | None) -> datasets.Dataset:
    if limit is None:
        return rows
    counts, chosen = Counter(), []
    for row, name in enumerate(rows["class"][:]):
        counts[name] += 1
        if counts[name] <= limit:
            chosen.append(row)
    return rows.select(chosen)


def _load_stream(
    source: str,
    config: str | None,
    split: str,
    columns: dict,
    revision: str | None,
    limit: int | None,
):
    commit = commit_of(source, revision)
    options = {
        "source": source,
        "config": config,
        "split": split,
        "columns": columns,
        "revision": commit,
    }
    rows = stored(_stream, ROWS, **options, limit=limit)
    stream = datasets.load_dataset(source, config, split=split, streaming=True, **at(commit))
    feature = (stream.features or {}).get(columns["class"])
    names = (
        list(feature.names) if isinstance(feature, ClassLabel) else sorted(set(rows["class"][:]))
    )
    return rows, names


def _stream(source, config, split, columns, revision, limit) -> Iterator[dict]:
    """At most `limit` rows of each class, read no further than needed."""
    counts, number = Counter(), 0
    stream = load_as_written(source, config, columns, split=split, streaming=True, **at(revision))
    feature = (stream.features or {}).get(columns["class"])
    everything = set(feature.names) if isinstance(feature, ClassLabel) else None
    for batch in stream.with_format("arrow").iter(STREAM_BATCH):
        _check_columns(batch.column_names, columns, source)
        names, _ = _class_names(
            batch[columns["class"]].to_pylist(), feature, columns["class"], source
        )
        for position, name in enumerate(names):
            if limit is None or counts[name] < limit:
                counts[name] += 1
                row = batch.slice(position, 1).to_pylist()[0]
                own = row.get(columns["id"])
                yield {
                    "id": f"{split}-{number + position:09d}" if own is None else str(own),
                    "class": name,
                    "image": fetched(row[columns["image"]], source, "image", "images"),
                }
        number += len(names)
        if limit and everything and all(counts[name] >= limit for name in everything):
            return
    if number == 0:
        raise ValueError(f"split '{split}' of {source} holds no images")
