"""Columns of files (sounds, images) in all their forms, as one: {"bytes", "path"}, neither decoded
nor copied."""

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Audio, Dataset, DatasetInfo, Features, Image, Value
from datasets.fingerprint import Hasher
from datasets.table import InMemoryTable

# what Audio(decode=False) and Image(decode=False) store
STORED = {"bytes": Value("binary"), "path": Value("string")}
BINARY, TEXT = (Value("binary"), Value("large_binary")), (Value("string"), Value("large_string"))


def undecoded(
    rows: Dataset, column: str, kind: Audio | Image, find: Callable[[str], str], source
) -> Dataset:
    """The column alone, as audio or image (the kind's name in lower case).

    Args:
        column: of paths, of contents, of audio or images, or of structs that have bytes, a path, or
            both.
        kind: with decode=False.
        find: where the file of a path without bytes lies.

    Raises:
        ValueError: the column holds something else, or a row has no file.
    """
    name, feature = type(kind).__name__.lower(), rows.features[column]
    if not (
        isinstance(feature, type(kind)) or feature in BINARY or feature in TEXT or _is_file(feature)
    ):
        raise ValueError(
            f"{name} column '{column}' of {source} holds {feature}, not {name} files or their paths"
        )
    files = rows.select_columns(column).rename_columns({column: name})
    # stays on disk where it is there
    if isinstance(feature, type(kind)) or feature in (*BINARY, STORED):
        files = files.cast_column(name, kind)
    chunks = files.with_format("arrow")[:][name].chunks
    missing = sum(
        _count(pc.and_(_of(chunk, "bytes").is_null(), _of(chunk, "path").is_null()))
        for chunk in chunks
    )
    if missing:
        raise ValueError(
            f"{missing} of {len(rows)} rows of {source} have no {name} in column '{column}'"
        )
    if files.features[name] == kind and all(_is_found(chunk, find) for chunk in chunks):
        return files
    table = pa.table(
        {name: pa.chunked_array([_as_stored(chunk, find) for chunk in chunks], kind.pa_type)}
    )
    # that of the content would read all of it
    fingerprint = Hasher.hash([rows._fingerprint, column, str(source)])
    return Dataset(
        InMemoryTable(table), DatasetInfo(features=Features({name: kind})), fingerprint=fingerprint
    )


def _is_file(feature) -> bool:
    parts = {"bytes": BINARY, "path": TEXT}
    known = isinstance(feature, dict) and {part: feature[part] for part in parts if part in feature}
    return bool(known) and all(
        held in (*parts[part], Value("null")) for part, held in known.items()
    )


def _as_stored(chunk: pa.Array, find: Callable[[str], str]) -> pa.Array:
    """An array of structs of bytes and path; a path without bytes is where `find` finds it."""
    content, paths = _of(chunk, "bytes"), _of(chunk, "path")
    named = zip(paths.to_pylist(), content.is_null().to_pylist())
    paths = pa.array([find(path) if path and alone else path for path, alone in named], pa.string())
    return pa.StructArray.from_arrays(
        [content.cast(pa.binary()), paths.cast(pa.string())], names=["bytes", "path"]
    )


def _is_found(chunk: pa.Array, find: Callable[[str], str]) -> bool:
    """Whether every path without bytes is one of a file already."""
    alone = _of(chunk, "path").filter(_of(chunk, "bytes").is_null())
    return all(path == find(path) for path in alone.to_pylist())


def _count(flags: pa.Array) -> int:
    return pc.sum(flags).as_py() or 0


def _of(chunk: pa.Array, part: str) -> pa.Array:
    """The bytes or the paths (a text that is empty is none) of a column in any of its forms; nulls
    where it has none."""
    kind = chunk.type
    if pa.types.is_struct(kind):
        has = kind.get_field_index(part) >= 0
        held = pc.struct_field(chunk, part) if has else pa.nulls(len(chunk), pa.string())
    else:
        texts = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        held = chunk if texts == (part == "path") else pa.nulls(len(chunk), pa.string())
    return held if part == "bytes" else pc.if_else(pc.equal(held, ""), None, held)
