"""Reads speech from the Hub, a LibriSpeech tree, or a folder or table on disk, as uniform rows."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Audio, Dataset
from datasets.exceptions import DatasetGenerationError

from ..media import TEXT
from ..row_checks import check_owners, check_table_suffix, check_wanted
from ..rows import RowKind, RowRequest, local_path, make_request
from ..sampling import first_of_each, groups_of, sorted_by_id
from ..streams import dataset_commit, load_stream, revision_option, stream_rows
from ..tables import (
    Loaded,
    first_table,
    load_as_written,
    read_table,
    select_split,
    warn_of_unlisted,
)
from ..uniform_rows import row_numbers, to_uniform_rows
from . import librispeech

TABLE_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
AUDIO_SUFFIXES = (".flac", ".wav", ".mp3", ".ogg", ".opus", ".m4a", ".aac")


def _path_or_row_number(
    paths: list[str | None], first: int, split: str, root: Path | None
) -> list[str]:
    """The path relative to the root, so that it is the same on every machine; without a path, the
    row's number."""
    return [
        _relative(Path(path), root).as_posix() if path else number
        for path, number in zip(paths, row_numbers(split, first, len(paths)))
    ]


def _relative(path: Path, root: Path | None) -> Path:
    inside = root is not None and path.is_relative_to(root)
    return path.relative_to(root) if inside else path


SPEECH = RowKind(
    owner="speaker",
    owners="speakers",
    content="audio",
    files="audio files",
    sample="utterance",
    samples="utterances",
    has_text=True,
    feature=Audio(decode=False),
    owner_types=int | float | str,
    column_options={
        "audio": "audio_column",
        "text": "text_column",
        "speaker": "speaker_column",
    },
    limit_option="max_utterances_per_speaker",
    default_ids=_path_or_row_number,
)


def load_speech(
    source: str | Path,
    *,
    split: str,
    config: str | None = None,
    audio_column: str = "audio",
    text_column: str = "text",
    speaker_column: str = "speaker_id",
    id_column: str = "id",
    revision: str | None = None,
    streaming: bool = False,
    speakers: Iterable[str] | None = None,
    max_utterances_per_speaker: int | None = None,
    text_optional: bool = False,
    options: dict[str, str] | None = None,
) -> Dataset:
    """Loads the utterances of a split, sorted by id.

    Args:
        source: a Hub id; the folder of the official LibriSpeech tree (`split` is then a subset like
            "train-clean-100", and the column names are known); a folder with `metadata.csv`,
            `<split>/metadata.csv` or `<split>.csv` (or tsv, json, jsonl, parquet); one such table;
            anything else that `datasets` loads. A table of several splits has a column named split.
            Paths are relative to the table, or to a folder named clips beside it.
        id_column: unique utterance ids. Without such a column the path of the audio is the id;
            without a path, the row number.
        revision: branch, tag or commit of a Hub dataset.
        streaming: read a Hub dataset as a stream and store only the rows asked for, in the cache of
            `datasets`. Reading ends as soon as each of `speakers` has `max_utterances_per_speaker`.
            Ignored for sources on disk.
        speakers: ids to keep, compared as strings; None keeps all.
        max_utterances_per_speaker: keep the first ones by id (streaming: the first ones to arrive).
        text_optional: accept a source on disk without a text column; its texts are empty.
        options: the options that gave the columns "text" and "speaker", where they are others than
            text_column and speaker_column; for messages.

    Returns:
        Rows with id, speaker, text (str) and audio ({"bytes", "path"}, not decoded).

    Raises:
        ValueError: unknown source, split, column or speaker; a row without speaker or audio; ids
            that repeat.
    """
    request = make_request(
        SPEECH,
        source,
        config=config,
        split=split,
        columns={
            "id": id_column,
            "speaker": speaker_column,
            "text": text_column,
            "audio": audio_column,
        },
        revision=revision,
        owners=None if speakers is None else tuple(sorted({str(name) for name in speakers})),
        limit=max_utterances_per_speaker,
        options=options or {},
    )
    rows = sorted_by_id(_rows_of(request, streaming, text_optional))
    check_wanted(SPEECH, request, groups_of(rows, "speaker"))
    return first_of_each(SPEECH, rows, request)


def _rows_of(request: RowRequest, streaming: bool, text_optional: bool) -> Dataset:
    """The rows of a folder, a table or a dataset on the Hub, whichever the source is."""
    path, revision = local_path(request.source), request.revision
    if path is not None:
        return _load_local(path, request, text_optional)
    if streaming:
        pinned = replace(request, revision=dataset_commit(request.source, revision))
        return load_stream(SPEECH, pinned, _stream)
    loaded = _load(request, request.source, split=request.split, **revision_option(revision))
    return to_uniform_rows(SPEECH, loaded, request, request.source)


def check_speakers(wanted: Iterable[str], speakers: Iterable[str], source: str | Path) -> None:
    """Raises ValueError, with the nearest ids, if one of `wanted` is not among `speakers`."""
    check_owners(SPEECH, wanted, speakers, source)


def _stream(**request: Any) -> Iterator[dict]:
    return stream_rows(SPEECH, RowRequest(**request))


def _load_local(path: Path, request: RowRequest, text_optional: bool) -> Dataset:
    if librispeech.subsets(path):
        rows = Dataset.from_list(librispeech.read_subset(path, request.split))
        own_columns = replace(request, columns={name: name for name in request.columns})
        return _to_uniform_rows(rows, own_columns, path, path)
    check_table_suffix(SPEECH, path, TABLE_SUFFIXES)
    if path.is_file():
        return _load_table(path, request, text_optional, of_one_split=False)
    if table := first_table(path, "metadata", suffixes=TABLE_SUFFIXES):
        return _load_table(table, request, text_optional, of_one_split=False)
    split = request.split
    if table := first_table(path, f"{split}/metadata", split, suffixes=TABLE_SUFFIXES):
        return _load_table(table, request, text_optional, of_one_split=True)
    rows = select_split(_load(request, str(path)), split, path)
    return _to_uniform_rows(_with_text(rows, request, text_optional), request, path, path)


def _load_table(
    table: Path, request: RowRequest, text_optional: bool, *, of_one_split: bool
) -> Dataset:
    audio = request.columns["audio"]
    whole = _with_text(read_table(table, audio), request, text_optional)
    rows = whole if of_one_split else select_split({"train": whole}, request.split, table)
    rows = _to_uniform_rows(rows, request, table, table.parent)
    if table.stem == "metadata" and whole.features[audio] in TEXT:
        listed = (_find_audio(path, table.parent) for path in whole[audio][:] if path)
        warn_of_unlisted(table, listed, AUDIO_SUFFIXES, "transcript")
    return rows


def _to_uniform_rows(rows: Dataset, request: RowRequest, source: Path, root: Path) -> Dataset:
    find = partial(_find_audio, root=root)
    return to_uniform_rows(SPEECH, rows, request, source, root=root, find=find)


def _with_text(rows: Dataset, request: RowRequest, text_optional: bool) -> Dataset:
    """Adds empty texts if there is no text column and none is needed."""
    column = request.columns["text"]
    if not text_optional or column in rows.column_names:
        return rows
    return rows.add_column(column, [""] * len(rows))


def _load(request: RowRequest, source: str, **options: Any) -> Loaded:
    """What `datasets` finds at a source.

    Raises:
        ValueError: there are only audio files, which `datasets` cannot list without torchcodec.
    """
    try:
        return load_as_written(source, request.config, request.columns, **options)
    except DatasetGenerationError as error:
        if not isinstance(error.__cause__, ImportError):
            raise
        raise ValueError(
            f"datasets cannot list the audio files of {source} without torchcodec: install it, "
            "pass streaming=True for a dataset on the Hub, or write a metadata.csv (file_name, "
            "speaker, text) into a folder on disk"
        ) from None


def _find_audio(path: str, root: Path) -> str:
    # Common Voice keeps its files in a folder named clips beside its tables.
    candidates = [root / path, root / "clips" / path]
    return str(next((file for file in candidates if file.is_file()), candidates[0]))
