"""Brings columns of audio and images of any form into one: {"bytes", "path"}, neither decoded nor
copied."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Audio, Dataset, DatasetInfo, Features, Image, Value
from datasets.fingerprint import Hasher
from datasets.table import InMemoryTable

# what Audio(decode=False) and Image(decode=False) store
STORED_FILE = {"bytes": Value("binary"), "path": Value("string")}
BINARY = (Value("binary"), Value("large_binary"))
TEXT = (Value("string"), Value("large_string"))


def as_undecoded_files(
    rows: Dataset,
    column: str,
    feature: Audio | Image,
    find: Callable[[str], str],
    source: str | Path,
) -> Dataset:
    """A dataset with only this column, named audio or image, as the feature stores it.

    Args:
        column: holds paths, contents, audio or images, or structs that have bytes, a path or both.
        feature: with decode=False.
        find: gives the full path of a file, from a path without bytes.
        source: for messages.

    Raises:
        ValueError: the column holds something else, or a row has no file.
    """
    name, content = type(feature).__name__.lower(), rows.features[column]
    is_media = isinstance(content, type(feature))
    if not (is_media or content in BINARY or content in TEXT or _is_file_struct(content)):
        raise ValueError(
            f"{name} column '{column}' of {source} holds {content}, not {name} files or their "
            "paths: name another column"
        )
    files = rows.select_columns(column).rename_columns({column: name})
    # The cast leaves data on disk where it is.
    if is_media or content in (*BINARY, STORED_FILE):
        files = files.cast_column(name, feature)
    chunks = files.with_format("arrow")[:][name].chunks
    missing = sum(_count_missing(chunk) for chunk in chunks)
    if missing:
        raise ValueError(
            f"{missing} of {len(rows)} rows of {source} have no {name} in column '{column}': "
            "remove these rows, or name another column"
        )
    if files.features[name] == feature and all(_has_final_paths(chunk, find) for chunk in chunks):
        return files
    stored = pa.chunked_array([_as_stored(chunk, find) for chunk in chunks], feature.pa_type)
    # A fingerprint of the content would read all of it.
    fingerprint = Hasher.hash([rows._fingerprint, column, str(source)])
    return Dataset(
        InMemoryTable(pa.table({name: stored})),
        DatasetInfo(features=Features({name: feature})),
        fingerprint=fingerprint,
    )


def _is_file_struct(feature: object) -> bool:
    """Whether a feature is a struct of bytes, a path or both, perhaps with further fields."""
    types = {"bytes": BINARY, "path": TEXT}
    if not isinstance(feature, dict):
        return False
    parts = {part: feature[part] for part in types if part in feature}
    return bool(parts) and all(
        kind in (*types[part], Value("null")) for part, kind in parts.items()
    )


def _count_missing(chunk: pa.Array) -> int:
    """How many rows have neither bytes nor a path."""
    missing = pc.and_(_part(chunk, "bytes").is_null(), _part(chunk, "path").is_null())
    return pc.sum(missing).as_py() or 0


def _as_stored(chunk: pa.Array, find: Callable[[str], str]) -> pa.Array:
    """An array of structs of bytes and path, in which `find` has replaced paths without bytes."""
    content, paths = _part(chunk, "bytes"), _part(chunk, "path")
    rows = zip(paths.to_pylist(), content.is_null().to_pylist())
    paths = pa.array(
        [find(path) if path and no_bytes else path for path, no_bytes in rows], pa.string()
    )
    return pa.StructArray.from_arrays([content.cast(pa.binary()), paths], names=["bytes", "path"])


def _has_final_paths(chunk: pa.Array, find: Callable[[str], str]) -> bool:
    """Whether `find` would change no path."""
    without_bytes = _part(chunk, "path").filter(_part(chunk, "bytes").is_null())
    return all(path == find(path) for path in without_bytes.to_pylist())


def _part(chunk: pa.Array, part: str) -> pa.Array:
    """The bytes or the paths of a column in any of its forms; nulls if it has none.

    An empty path is null, too.
    """
    kind = chunk.type
    if pa.types.is_struct(kind):
        has_part = kind.get_field_index(part) >= 0
        values = pc.struct_field(chunk, part) if has_part else pa.nulls(len(chunk), pa.string())
    else:
        holds_paths = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        is_part = holds_paths == (part == "path")
        values = chunk if is_part else pa.nulls(len(chunk), pa.string())
    return values if part == "bytes" else pc.if_else(pc.equal(values, ""), None, values)


def as_stored(rows: Dataset) -> Dataset:
    """The rows with the files that are stored, in place of inputs that are computed when they are
    read. Such a column has a type with a method `stored`, as `SpeechInput` has."""
    for name, content in rows.features.items():
        if hasattr(content, "stored"):
            rows = rows.cast_column(name, content.stored())
    return rows
