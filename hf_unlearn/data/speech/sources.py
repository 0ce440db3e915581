"""Where speech comes from (the Hub, a LibriSpeech tree, a folder or table on disk), read as uniform
rows."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path

from datasets import Audio, ClassLabel, Dataset, Features, Value
from datasets.exceptions import DatasetGenerationError
from transformers.utils import logging

from ..files import STORED, TEXT, undecoded
from ..sampling import others_alike
from ..streams import STREAM_BATCH, at, commit_of, fetched, stored
from ..tables import few, first_table, load_as_written, read_table, select_split, warn_of_unlisted
from . import librispeech

logger = logging.get_logger(__name__)

ROWS = Features(
    {
        "id": Value("string"),
        "speaker": Value("string"),
        "text": Value("string"),
        # `datasets` needs torchcodec to write an Audio, but not to cast to one.
        "audio": STORED,
    }
)
SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")  # of tables
SOUNDS = (".flac", ".wav", ".mp3", ".ogg", ".opus", ".m4a", ".aac")


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
) -> Dataset:
    """Utterances of a split: columns id, speaker, text (str) and audio ({"bytes", "path"}, not
    decoded), sorted by id.

    Args:
        source: Hub id; folder of the official LibriSpeech tree (`split` is then a subset like
            "train-clean-100", and the column names are known); folder with `metadata.csv`,
            `<split>/metadata.csv` or `<split>.csv` (or tsv, json, jsonl, parquet); one such table;
            what else `datasets` loads. A table for several splits has a column named split. Paths
            are relative to the table, or to the folder clips beside it.
        id_column: unique utterance ids. The audio path is the id without such a column, the row
            number without a path.
        revision: branch, tag or commit of a Hub set.
        streaming: read a Hub set as it arrives and store, in the cache of `datasets`, only the rows
            asked for. Reading ends as soon as each of `speakers` has `max_utterances_per_speaker`.
            Without effect on sources on disk.
        speakers: ids to keep, compared as strings; None keeps all.
        max_utterances_per_speaker: keeps the first ones by id (streaming: the first ones to
            arrive).
        text_optional: take a source on disk without a text column, too, with empty texts.

    Raises:
        ValueError: unknown source, split, column or speaker; a row without speaker or audio; ids
            that repeat.
    """
    columns = {
        "id": id_column,
        "speaker": speaker_column,
        "text": text_column,
        "audio": audio_column,
    }
    wanted = None if speakers is None else sorted({str(speaker) for speaker in speakers})
    source = os.path.expanduser(source)
    if os.path.exists(source):
        dataset = _load_local(Path(os.path.abspath(source)), config, split, columns, text_optional)
    elif os.path.isabs(source) or source.startswith(".") or source.count("/") > 1:
        raise ValueError(f"no file or folder {source}")
    elif streaming:
        dataset = _load_stream(
            source, config, split, columns, revision, wanted, max_utterances_per_speaker
        )
    else:
        dataset = _standardise(
            _load(source, config, columns, split=split, **at(revision)), columns, source, split
        )
    return _select(dataset, wanted, max_utterances_per_speaker, source)


def check_speakers(wanted: Iterable[str], known: Iterable[str], source: str | Path) -> None:
    """Raises ValueError, with the nearest ids, where one of `wanted` is not among `known`."""
    known = sorted(set(known))
    for speaker in wanted:
        if speaker not in known:
            nearest = ", ".join(get_close_matches(speaker, known, cutoff=0))
            raise ValueError(
                f"unknown speaker '{speaker}' in {source}: the nearest of its {len(known)} ids: "
                f"{nearest}"
            )


def _load_local(
    source: Path, config: str | None, split: str, columns: dict[str, str], text_optional: bool
) -> Dataset:
    if librispeech.subsets(source):
        rows = Dataset.from_list(librispeech.read_subset(source, split))
        return _standardise(rows, {name: name for name in columns}, source, split, source)
    if source.is_file() and source.suffix not in SUFFIXES:
        raise ValueError(
            f"{source} is not a table of audio paths: give one that ends in {', '.join(SUFFIXES)}, "
            "or a folder"
        )
    shared = source if source.is_file() else first_table(source, "metadata", suffixes=SUFFIXES)
    own = first_table(source, f"{split}/metadata", split, suffixes=SUFFIXES)
    table = shared or own
    if table is None:
        rows = select_split(_load(str(source), config, columns), split, source)
        return _standardise(
            _with_text(rows, columns, text_optional), columns, source, split, source
        )
    whole = _with_text(read_table(table, columns["audio"]), columns, text_optional)
    rows = whole if own and not shared else select_split({"train": whole}, split, table)
    rows = _standardise(rows, columns, table, split, table.parent)
    if table.stem == "metadata" and whole.features[columns["audio"]] in TEXT:
        audio = _undecoded(whole, columns["audio"], table, table.parent)
        warn_of_unlisted(table, audio.flatten()["audio.path"][:], SOUNDS, "transcript")
    return rows


def _with_text(rows: Dataset, columns: dict[str, str], optional: bool) -> Dataset:
    """Rows with empty texts, where they have no column of texts and need none."""
    if not optional or columns["text"] in rows.column_names:
        return rows
    return rows.add_column(columns["text"], [""] * len(rows))


def _load(source: str, config: str | None, columns: dict[str, str], **options):
    try:
        return load_as_written(source, config, columns, **options)
    except DatasetGenerationError as error:
        if not isinstance(error.__cause__, ImportError):
            raise
        raise ValueError(
            f"datasets cannot list the audio files of {source} without torchcodec: install it, "
            "pass streaming=True "
            "for a set on the Hub, or write a metadata.csv (file_name, speaker, text) into a "
            "folder on disk"
        ) from None


def _check_columns(names: list[str], columns: dict[str, str], source: str | Path) -> None:
    for role in ("audio", "text", "speaker"):
        if columns[role] not in names:
            raise ValueError(
                f"no {role} column '{columns[role]}' in {source}; its columns are "
                f"{', '.join(names)}"
            )


def _standardise(
    rows: Dataset, columns: dict[str, str], source, split: str, root: Path | None = None
) -> Dataset:
    """Columns as in ROWS, without decoding or copying audio that `rows` embeds; paths are taken
    relative to `root`."""
    _check_columns(rows.column_names, columns, source)
    if not len(rows):
        raise ValueError(f"split '{split}' of {source} holds no utterances")
    # `cast` leaves a format behind that hides the columns flattened below
    rows = rows.with_format(None)
    audio = _undecoded(rows, columns["audio"], source, root)
    paths = audio.flatten()["audio.path"][:]  # without the bytes
    ids = rows[columns["id"]][:] if columns["id"] in rows.column_names else [None] * len(rows)
    ids = [_utterance_id(*row, root, split) for row in zip(ids, paths, range(len(rows)))]
    _check_unique(ids, source)
    speakers, feature = rows[columns["speaker"]][:], rows.features[columns["speaker"]]
    speakers = _speaker_names(speakers, feature, columns["speaker"], source)
    texts = ["" if text is None else str(text) for text in rows[columns["text"]][:]]
    for name, values in {"id": ids, "speaker": speakers, "text": texts}.items():
        audio = audio.add_column(name, values, feature=ROWS[name])
    return audio.select_columns(list(ROWS))


def _undecoded(rows: Dataset, column: str, source: str | Path, root: Path | None) -> Dataset:
    """The audio alone, as a column audio of {"bytes", "path"}."""
    return undecoded(
        rows, column, Audio(decode=False), lambda path: _find_audio(path, root), source
    )


def _find_audio(path: str, root: Path | None) -> str:
    # Common Voice names files of the folder clips beside its tables.
    places = [] if root is None else [root / path, root / "clips" / path]
    return str(next((place for place in places if place.is_file()), places[0] if places else path))


def _speaker_names(speakers: list, feature, column: str, source: str | Path) -> list[str]:
    missing = sum(speaker in (None, "") for speaker in speakers)
    if missing:
        raise ValueError(
            f"{missing} of {len(speakers)} rows read of {source} have no speaker in "
            f"column '{column}'"
        )
    return (
        feature.int2str(speakers)
        if isinstance(feature, ClassLabel)
        else [str(speaker) for speaker in speakers]
    )


def _utterance_id(name, path: str | None, row: int, root: Path | None, split: str) -> str:
    """The id given, or else the path as it is on every machine, or else the row."""
    if name is not None:
        return str(name)
    if not path:
        return f"{split}-{row:09d}"
    inside = root is not None and Path(path).is_relative_to(root)
    return (Path(path).relative_to(root) if inside else Path(path)).as_posix()


def _check_unique(ids: list[str], source: str | Path) -> None:
    repeated = [name for name, count in Counter(ids).items() if count > 1]
    if repeated:
        raise ValueError(
            f"{len(repeated)} utterance ids of {source} are not unique, among them "
            f"'{repeated[0]}': name another "
            "id_column"
        )


def _select(
    rows: Dataset, speakers: list[str] | None, limit: int | None, source: str | Path
) -> Dataset:
    if limit is not None and limit < 1:
        raise ValueError(
            f"max_utterances_per_speaker is {limit}: give a positive number, or none to load all"
        )
    owners, ids, counts, positions = rows["speaker"][:], rows["id"][:], Counter(), []
    check_speakers(speakers or (), owners, source)
    _warn_of_spellings(speakers or (), owners, source)
    for position in sorted(range(len(ids)), key=ids.__getitem__):
        speaker = owners[position]
        if (speakers is None or speaker in speakers) and (limit is None or counts[speaker] < limit):
            counts[speaker] += 1
            positions.append(position)
    return rows.select(positions)


def _warn_of_spellings(wanted: Iterable[str], known: Iterable[str], source: str | Path) -> None:
    if alike := others_alike(wanted, known):
        logger.warning_once(
            f"{source} has other spellings of the speakers asked for, which are left out: "
            f"{few(map(repr, alike))}"
        )


def _load_stream(source, config, split, columns, revision, speakers, limit) -> Dataset:
    options = {"source": source, "config": config, "split": split, "columns": columns}
    options["revision"] = commit_of(source, revision)
    rows = stored(_stream, ROWS, **options, speakers=speakers, limit=limit)
    return _standardise(rows, {name: name for name in columns}, source, split)


def _stream(source, config, split, columns, revision, speakers, limit) -> Iterator[dict]:
    """Rows of the wanted speakers (None: of all), at most `limit` of each, read no further than
    needed."""
    counts, seen, number = Counter(), set(), 0
    stream = load_as_written(source, config, columns, split=split, streaming=True, **at(revision))
    # Arrow batches, since plain iteration encodes every Audio anew and needs torchcodec for it.
    for batch in stream.with_format("arrow").iter(STREAM_BATCH):
        _check_columns(batch.column_names, columns, source)
        feature = (stream.features or {}).get(columns["speaker"])
        names = _speaker_names(
            batch[columns["speaker"]].to_pylist(), feature, columns["speaker"], source
        )
        seen.update(names)
        for position, speaker in enumerate(names):
            if (speakers is None or speaker in speakers) and (
                limit is None or counts[speaker] < limit
            ):
                counts[speaker] += 1
                row = batch.slice(position, 1).to_pylist()[0]
                audio = fetched(row[columns["audio"]], source, "audio", "audio files")
                name = _utterance_id(
                    row.get(columns["id"]), audio["path"], number + position, None, split
                )
                yield {"id": name, "speaker": speaker, "text": row[columns["text"]], "audio": audio}
        number += len(names)
        if speakers and limit and all(counts[speaker] >= limit for speaker in speakers):
            return
    if number == 0:
        raise ValueError(f"split '{split}' of {source} holds no utterances")
    check_speakers(speakers or (), seen, source)
    _warn_of_spellings(speakers or (), seen, source)
