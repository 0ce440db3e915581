"""Reads tables on disk. Their texts stay as they are written: 0010 is not 10, and NA is a name like
any other."""

import csv
import io
import json
from collections.abc import Collection, Iterable
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeAlias

import datasets
from datasets import (
    Dataset,
    DatasetDict,
    Features,
    IterableDataset,
    IterableDatasetDict,
    Value,
)
from transformers.utils import logging

from ..files import read_text_file
from .names import first_few

logger = logging.get_logger(__name__)

# What `datasets.load_dataset` returns.
Loaded: TypeAlias = Dataset | DatasetDict | IterableDataset | IterableDatasetDict

TEXT_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl")
# suffix: builder of `datasets`
BINARY_BUILDERS = {".parquet": "parquet", ".arrow": "arrow"}


def first_table(folder: Path, *names: str, suffixes: Iterable[str]) -> Path | None:
    """The first table that exists, by name and then by suffix."""
    candidates = (folder / f"{name}{suffix}" for name in names for suffix in suffixes)
    return next((path for path in candidates if path.is_file()), None)


def read_table(table: Path, file_column: str) -> Dataset:
    """The rows of a table: in their types for parquet and arrow, else with all values as texts.

    Args:
        file_column: the column of files or of their paths. If it is missing, a column file_name is
            renamed to it, as audiofolder and imagefolder do.

    Raises:
        ValueError: the encoding, a line or the structure cannot be read; the message names it.
    """
    if table.suffix in BINARY_BUILDERS:
        builder = BINARY_BUILDERS[table.suffix]
        rows = datasets.load_dataset(builder, data_files=str(table), split="train")
    else:
        rows = _read_texts(table, file_column)
    if "file_name" in rows.column_names and file_column not in rows.column_names:
        return rows.rename_column("file_name", file_column)
    return rows


def select_split(tables: dict[str, Dataset], split: str, source: str | Path) -> Dataset:
    """The split of that name; if there is a single table with a column split, its rows.

    Raises:
        ValueError: there is no such split.
    """
    rows = next(iter(tables.values()))
    if len(tables) == 1 and "split" in rows.column_names:
        if not len(rows):
            raise ValueError(f"{source} has a header, but no rows: add them, or give another table")
        names = rows["split"][:]
        positions = [position for position, name in enumerate(names) if name == split]
        if positions:
            return rows.select(positions)
        raise no_such_split(split, source, sorted(set(map(str, names))))
    if split not in tables:
        raise no_such_split(split, source, tables)
    return tables[split]


def no_such_split(split: str, source: str | Path, splits: Iterable[str]) -> ValueError:
    """The error to raise, which lists the splits that there are."""
    return ValueError(f"no split '{split}' in {source}; it holds {', '.join(map(str, splits))}")


def warn_of_unlisted(
    table: Path, listed: Iterable[str | Path], suffixes: Collection[str], kind: str
) -> None:
    """One warning if files in the table's folder, or below, are not listed in it and so not used.

    Args:
        listed: the paths in the table.
        suffixes: of the files to look for.
        kind: for the message: what the table would say of a file ("transcript").
    """
    listed_paths = {Path(path) for path in listed}
    files = (path for path in table.parent.rglob("*") if path.suffix.lower() in suffixes)
    unlisted = [
        path.relative_to(table.parent).as_posix() for path in files if path not in listed_paths
    ]
    if unlisted:
        logger.warning_once(
            f"{table} names no {kind} for {len(unlisted)} files beside it, which are left out: "
            f"{first_few(unlisted)}"
        )


def load_as_written(
    source: str, config: str | None, columns: dict[str, str], **options: Any
) -> Loaded:
    """Like `datasets.load_dataset`, but csv files keep the texts of the named columns.

    One warning if a column of speakers, classes or ids was read as another type already.

    Args:
        columns: the source's own column for each role ("speaker", "class", "id", ...).
        options: of `datasets.load_dataset`.
    """
    loaded = datasets.load_dataset(source, config, **options)
    rows = next(iter(loaded.values())) if isinstance(loaded, dict) else loaded
    if rows.info.builder_name == "csv":
        texts = dict.fromkeys([*columns.values(), "split"], str)
        return datasets.load_dataset(
            source, config, **options, converters=texts, keep_default_na=False
        )
    for role in ("speaker", "class", "id"):
        if role in columns:
            _warn_of_guessed_type(rows, role, columns[role], source)
    return loaded


def _warn_of_guessed_type(rows: Dataset, role: str, column: str, source: str) -> None:
    """Warns if `datasets` guessed a type that may have changed the names in a column."""
    feature = (rows.features or {}).get(column)
    kind = feature.dtype if isinstance(feature, Value) else "string"
    builder = rows.info.builder_name
    guesses_types = builder in ("imagefolder", "audiofolder", "json")
    if guesses_types and not kind.endswith(("string", "int64")):
        logger.warning_once(
            f"The {role} column '{column}' of {source} was read as {kind}: names may have changed."
        )
    # A JSON number has no leading zeros.
    elif guesses_types and builder != "json" and kind == "int64":
        logger.warning_once(
            f"The {role} column '{column}' of {source} was read as numbers: leading zeros, if "
            "there were any, are lost."
        )


def _read_texts(table: Path, file_column: str) -> Dataset:
    text = read_text_file(table)
    is_json = table.suffix in (".json", ".jsonl")
    columns = _json_columns(text, table, file_column) if is_json else _csv_columns(text, table)
    if any(isinstance(value, dict) for values in columns.values() for value in values):
        return Dataset.from_dict(columns)
    return Dataset.from_dict(columns, Features({name: Value("string") for name in columns}))


def _csv_columns(text: str, table: Path) -> dict[str, list[str]]:
    # Common Voice writes .tsv files, in which nothing is quoted.
    unquoted = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    reader = csv.reader(
        io.StringIO(text), **(unquoted if table.suffix == ".tsv" else {"strict": True})
    )
    try:
        rows = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise ValueError(f"{table}, line {reader.line_num}: {error}. Fix this line") from None
    if not rows:
        raise ValueError(f"{table} is empty: its first line must name the columns")
    names = rows[0][1]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"{table} has the column {first_few(repeated)} twice: rename one")
    for line, row in rows:
        if len(row) != len(names):
            raise ValueError(
                f"{table}, line {line}: {len(row)} values, but the header names {len(names)} "
                "columns (a text with a comma needs quotes around it)"
            )
    return {name: [row[index] for _, row in rows[1:]] for index, name in enumerate(names)}


def _json_columns(text: str, table: Path, file_column: str) -> dict[str, list]:
    rows = _json_rows(text, table)
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: [_as_text(row.get(name), name == file_column) for row in rows] for name in names}


def _json_rows(text: str, table: Path) -> list[dict]:
    """The rows of one object in each line, of a list of objects, or of one object that holds a list
    for each column."""
    try:
        content = _parse(text)
    except json.JSONDecodeError:
        lines = enumerate(text.split("\n"), 1)
        content = [_parse_line(line, number, table) for number, line in lines if line.strip()]
    if isinstance(content, dict) and content:
        if all(isinstance(values, list) for values in content.values()):
            content = [dict(zip(content, row)) for row in zip_longest(*content.values())]
    rows = [content] if isinstance(content, dict) else content
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(
            f'{table} holds no rows: write one object, {{"column": "value"}}, in each line'
        )
    if not rows:
        raise ValueError(f"{table} holds no rows: add them, or give another table")
    return rows


def _parse_line(line: str, number: int, table: Path) -> Any:
    try:
        return _parse(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{table}, line {number}: not valid JSON ({error.msg}); fix it") from None


def _parse(text: str) -> Any:
    """JSON whose numbers stay texts."""
    return json.loads(text, parse_int=str, parse_float=str, parse_constant=str)


def _as_text(value: object, is_file: bool) -> str | dict | None:
    if value is None or isinstance(value, str) or (is_file and isinstance(value, dict)):
        return value
    return json.dumps(value)
