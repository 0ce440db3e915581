"""Tables on disk. What they hold as text is read as it is written: 0010 is not 10, and NA is a name
like any other."""

import csv
import io
import json
from collections.abc import Collection, Iterable
from itertools import zip_longest
from pathlib import Path

import datasets
from datasets import Dataset, Features, Value
from transformers.utils import logging

from ..files import text_of

logger = logging.get_logger(__name__)

TEXTS = (".csv", ".tsv", ".json", ".jsonl")
TABLES = {".parquet": "parquet", ".arrow": "arrow"}  # suffix: builder of datasets
SHOWN = 5


def first_table(folder: Path, *names: str, suffixes: Iterable[str]) -> Path | None:
    candidates = (folder / f"{name}{suffix}" for name in names for suffix in suffixes)
    return next((path for path in candidates if path.is_file()), None)


def read_table(table: Path, files: str) -> Dataset:
    """The rows of a table, in the types of parquet and arrow, or else all of them texts.

    Args:
        files: the column of files, or of their paths; a column file_name takes its place where it
            is not there.

    Raises:
        ValueError: an encoding, a line or a structure that cannot be read, named.
    """
    if table.suffix in TABLES:
        rows = datasets.load_dataset(TABLES[table.suffix], data_files=str(table), split="train")
    else:
        rows = _of_texts(table, files)
    # as audiofolder and imagefolder do
    if "file_name" in rows.column_names and files not in rows.column_names:
        return rows.rename_column("file_name", files)
    return rows


def select_split(tables: dict[str, Dataset], split: str, source: str | Path) -> Dataset:
    """The split of that name; of a single table with a column split, its rows. Raises ValueError:
    there is none."""
    rows = next(iter(tables.values()))
    if len(tables) == 1 and "split" in rows.column_names:
        if not len(rows):
            raise ValueError(f"{source} has a header, but no rows")
        names = rows["split"][:]
        positions = [position for position, name in enumerate(names) if name == split]
        if positions:
            return rows.select(positions)
        tables = dict.fromkeys(sorted(set(map(str, names))))
    if split not in tables:
        raise ValueError(f"no split '{split}' in {source}; it holds {', '.join(map(str, tables))}")
    return tables[split]


def warn_of_unlisted(
    table: Path, named: Iterable[str | None], suffixes: Collection[str], kind: str
) -> None:
    """One warning where files lie beside a table, or below, that it does not name: they are used
    for nothing."""
    known = {Path(path) for path in named if path}
    files = (path for path in table.parent.rglob("*") if path.suffix.lower() in suffixes)
    unlisted = sorted(
        path.relative_to(table.parent).as_posix() for path in files if path not in known
    )
    if unlisted:
        logger.warning_once(
            f"{table} names no {kind} for {len(unlisted)} files beside it, which are left out: "
            f"{few(unlisted)}"
        )


def few(names: Iterable[str]) -> str:
    """The first of many names, for a message."""
    names = sorted(names)
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def load_as_written(source: str, config: str | None, columns: dict[str, str], **options):
    """As `datasets.load_dataset`. These columns of csv files are texts; one warning where they
    cannot be had as texts."""
    loaded = datasets.load_dataset(source, config, **options)
    rows = next(iter(loaded.values())) if isinstance(loaded, dict) else loaded
    if rows.info.builder_name == "csv":
        texts = {
            "converters": dict.fromkeys([*columns.values(), "split"], str),
            "keep_default_na": False,
        }
        return datasets.load_dataset(source, config, **options, **texts)
    guessed = {"imagefolder", "audiofolder", "json"}
    for role in {"speaker", "class", "id"} & set(columns):
        feature = (rows.features or {}).get(columns[role])
        kind = feature.dtype if isinstance(feature, Value) else "string"
        if rows.info.builder_name in guessed and not kind.endswith(("string", "int64")):
            logger.warning_once(
                f"The {role} column '{columns[role]}' of {source} was read as {kind}: names may "
                "have changed."
            )
        elif rows.info.builder_name in guessed - {"json"} and kind == "int64":
            logger.warning_once(
                f"The {role} column '{columns[role]}' of {source} was read as numbers: had they "
                "leading zeros, these are lost."
            )
    return loaded


def _of_texts(table: Path, files: str) -> Dataset:
    text = text_of(table)
    columns = (
        _of_json(text, table, files)
        if table.suffix in (".json", ".jsonl")
        else _of_csv(text, table)
    )
    plain = {
        name: Value("string")
        for name, values in columns.items()
        if not any(isinstance(v, dict) for v in values)
    }
    features = Features(plain) if len(plain) == len(columns) else None
    return Dataset.from_dict(columns, features)


def _of_csv(text: str, table: Path) -> dict[str, list[str]]:
    options = (
        {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
        if table.suffix == ".tsv"
        else {"strict": True}
    )
    reader = csv.reader(io.StringIO(text), **options)  # Common Voice, in .tsv, quotes nothing
    try:
        rows = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise ValueError(f"{table}, line {reader.line_num}: {error}") from None
    if not rows:
        raise ValueError(f"{table} is empty: its first line must name the columns")
    names = rows[0][1]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"{table} has the column {few(twice)} twice: rename one")
    for line, row in rows:
        if len(row) != len(names):
            raise ValueError(
                f"{table}, line {line}: {len(row)} values, but the header names {len(names)} "
                "columns (a text with a "
                "comma needs quotes around it)"
            )
    return {name: [row[place] for _, row in rows[1:]] for place, name in enumerate(names)}


def _of_json(text: str, table: Path, files: str) -> dict[str, list]:
    rows = _json_rows(text, table)
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: [_as_text(row.get(name), name == files) for row in rows] for name in names}


def _json_rows(text: str, table: Path) -> list[dict]:
    """One object in each line; or one list of objects; or one object that holds a list for each
    column."""
    try:
        given = _parse(text)
    except json.JSONDecodeError:
        given = [
            _parse_line(line, number, table)
            for number, line in enumerate(text.split("\n"), 1)
            if line.strip()
        ]
    if (
        isinstance(given, dict)
        and given
        and all(isinstance(values, list) for values in given.values())
    ):
        given = [dict(zip(given, row)) for row in zip_longest(*given.values())]
    rows = [given] if isinstance(given, dict) else given
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(
            f'{table} holds no rows: write one object, {{"column": "value"}}, in each line'
        )
    if not rows:
        raise ValueError(f"{table} holds no rows")
    return rows


def _parse_line(line: str, number: int, table: Path):
    try:
        return _parse(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{table}, line {number}: no JSON ({error.msg})") from None


def _parse(text: str):
    return json.loads(text, parse_int=str, parse_float=str, parse_constant=str)


def _as_text(value, is_file: bool) -> str | dict | None:
    if value is None or isinstance(value, str) or is_file and isinstance(value, dict):
        return value
    return json.dumps(value)
