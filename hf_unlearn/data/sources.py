"""Where speech comes from (the Hub, a LibriSpeech tree, a folder or table on disk), read as uniform rows."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path

import datasets
from datasets import Audio, ClassLabel, Dataset, Features, Value
from datasets.exceptions import DatasetGenerationError

from . import librispeech
from .streams import STREAM_BATCH, fetched, stored

ROWS = Features(
    {
        "id": Value("string"),
        "speaker": Value("string"),
        "text": Value("string"),
        # What Audio(decode=False) stores. `datasets` needs torchcodec to write an Audio, but not to cast to one.
        "audio": {"bytes": Value("binary"), "path": Value("string")},
    }
)
TABLES = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}  # suffix: builder


def load_speech(
    source: str | Path,
    *,
    split: str,
    config: str | None = None,
    audio_column: str = "audio",
    text_column: str = "text",
    speaker_column: str = "speaker_id",
    id_column: str = "id",
    streaming: bool = False,
    speakers: Iterable[str] | None = None,
    max_utterances_per_speaker: int | None = None,
    text_optional: bool = False,
) -> Dataset:
    """Utterances of a split: columns id, speaker, text (str) and audio ({"bytes", "path"}, not decoded), sorted by id.

    Args:
        source: Hub id; folder of the official LibriSpeech tree (`split` is then a subset like "train-clean-100", and
            the column names are known); folder with `metadata.csv`, `<split>/metadata.csv` or `<split>.csv` (or tsv,
            json, jsonl, parquet); one such table; what else `datasets` loads. A table for several splits has a column
            named split. Paths are relative to the table, or to the folder clips beside it.
        id_column: unique utterance ids. The audio path is the id without such a column, the row number without a path.
        streaming: read a Hub set as it arrives and store, in the cache of `datasets`, only the rows asked for. Reading
            ends as soon as each of `speakers` has `max_utterances_per_speaker`. Without effect on sources on disk.
        speakers: ids to keep, compared as strings; None keeps all.
        max_utterances_per_speaker: keeps the first ones by id (streaming: the first ones to arrive).
        text_optional: take a source on disk without a text column, too, with empty texts.

    Raises:
        ValueError: unknown source, split, column or speaker; a row without speaker or audio; ids that repeat.
    """
    columns = {"id": id_column, "speaker": speaker_column, "text": text_column, "audio": audio_column}
    wanted = None if speakers is None else sorted({str(speaker) for speaker in speakers})
    source = os.path.expanduser(source)
    if os.path.exists(source):
        dataset = _load_local(Path(os.path.abspath(source)), config, split, columns, text_optional)
    elif os.path.isabs(source) or source.startswith(".") or source.count("/") > 1:
        raise ValueError(f"no file or folder {source}")
    elif streaming:
        dataset = _load_stream(source, config, split, columns, wanted, max_utterances_per_speaker)
    else:
        dataset = _standardise(_load(source, config, split=split), columns, source, split)
    return _select(dataset, wanted, max_utterances_per_speaker, source)


def check_speakers(wanted: Iterable[str], known: Iterable[str], source: str | Path) -> None:
    """Raises ValueError, with the nearest ids, where one of `wanted` is not among `known`."""
    known = sorted(set(known))
    for speaker in wanted:
        if speaker not in known:
            nearest = ", ".join(get_close_matches(speaker, known, cutoff=0))
            raise ValueError(
                f"unknown speaker '{speaker}' in {source}: the nearest of its {len(known)} ids: {nearest}"
            )


def _load_local(source: Path, config: str | None, split: str, columns: dict[str, str], text_optional: bool) -> Dataset:
    if librispeech.subsets(source):
        rows = Dataset.from_list(librispeech.read_subset(source, split))
        return _standardise(rows, {name: name for name in columns}, source, split, source)
    if source.is_file() and source.suffix not in TABLES:
        raise ValueError(
            f"{source} is not a table of audio paths: give one that ends in {', '.join(TABLES)}, or a folder"
        )
    shared = source if source.suffix in TABLES else _first_table(source, "metadata")
    own = _first_table(source, f"{split}/metadata", split)
    if shared:
        rows = _select_split(_read_table(shared, columns), split, shared)
    elif own:
        rows = _read_table(own, columns)["train"]
    else:
        rows = _select_split(_load(str(source), config), split, source)
    table = shared or own
    if text_optional and columns["text"] not in rows.column_names:
        rows = rows.add_column(columns["text"], [""] * len(rows))
    return _standardise(rows, columns, table or source, split, table.parent if table else source)


def _first_table(folder: Path, *names: str) -> Path | None:
    candidates = (folder / f"{name}{suffix}" for name in names for suffix in TABLES)
    return next((path for path in candidates if path.is_file()), None)


def _read_table(table: Path, columns: dict[str, str]) -> datasets.DatasetDict:
    # Not by the audiofolder builder, which needs torchcodec even to list files.
    options = {}
    if TABLES[table.suffix] == "csv":
        # As written: speaker 0011 is not 11, and the transcript "null" is a word.
        options["converters"] = dict.fromkeys([*columns.values(), "split", "file_name"], str)
        options["keep_default_na"] = False
    if table.suffix == ".tsv":
        options |= {"sep": "\t", "quoting": 3}  # Common Voice quotes nothing
    tables = _load(TABLES[table.suffix], data_files=str(table), **options)
    names = tables["train"].column_names
    if "file_name" in names and columns["audio"] not in names:  # as audiofolder does
        return tables.rename_column("file_name", columns["audio"])
    return tables


def _load(*args, **options):
    try:
        return datasets.load_dataset(*args, **options)
    except DatasetGenerationError as error:
        if not isinstance(error.__cause__, ImportError):
            raise
        raise ValueError(
            f"datasets cannot list the audio files of {args[0]} without torchcodec: install it, pass streaming=True "
            "for a set on the Hub, or write a metadata.csv (file_name, speaker, text) into a folder on disk"
        ) from None


def _select_split(tables: datasets.DatasetDict, split: str, source: str | Path) -> Dataset:
    rows = next(iter(tables.values()))
    if len(tables) == 1 and "split" in rows.column_names:
        names = rows["split"][:]
        positions = [position for position, name in enumerate(names) if name == split]
        if positions:
            return rows.select(positions)
        tables = sorted(set(names))
    if split not in tables:
        raise ValueError(f"no split '{split}' in {source}; it holds {', '.join(map(str, tables))}")
    return tables[split]


def _check_columns(names: list[str], columns: dict[str, str], source: str | Path) -> None:
    for role in ("audio", "text", "speaker"):
        if columns[role] not in names:
            raise ValueError(f"no {role} column '{columns[role]}' in {source}; its columns are {', '.join(names)}")


def _standardise(rows: Dataset, columns: dict[str, str], source, split: str, root: Path | None = None) -> Dataset:
    """Columns as in ROWS, without decoding or copying audio that `rows` embeds; paths are taken relative to `root`."""
    _check_columns(rows.column_names, columns, source)
    if not len(rows):
        raise ValueError(f"split '{split}' of {source} holds no utterances")
    rows = rows.with_format(None)  # `cast` leaves a format behind that hides the columns flattened below
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
    feature = rows.features[column]
    if feature in (Value("string"), Value("large_string")):
        paths = [path and _find_audio(path, root) for path in rows[column][:]]
        audio = Dataset.from_dict({"audio": paths}, Features({"audio": Value("string")}))
    elif isinstance(feature, Audio) or feature == Value("binary") or feature == ROWS["audio"]:
        audio = rows.select_columns(column).rename_columns({column: "audio"})
    else:
        raise ValueError(f"audio column '{column}' of {source} holds {feature}, not audio files or their paths")
    audio = audio.cast_column("audio", Audio(decode=False))
    missing = audio.with_format("arrow")[:]["audio"].null_count
    if missing:
        raise ValueError(f"{missing} of {len(rows)} rows of {source} have no audio in column '{column}'")
    return audio


def _find_audio(path: str, root: Path | None) -> str:
    # Common Voice names files of the folder clips beside its tables.
    places = [] if root is None else [root / path, root / "clips" / path]
    return str(next((place for place in places if place.is_file()), places[0] if places else path))


def _speaker_names(speakers: list, feature, column: str, source: str | Path) -> list[str]:
    missing = sum(speaker in (None, "") for speaker in speakers)
    if missing:
        raise ValueError(f"{missing} of {len(speakers)} rows read of {source} have no speaker in column '{column}'")
    return feature.int2str(speakers) if isinstance(feature, ClassLabel) else [str(speaker) for speaker in speakers]


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
            f"{len(repeated)} utterance ids of {source} are not unique, among them '{repeated[0]}': name another "
            "id_column"
        )


def _select(rows: Dataset, speakers: list[str] | None, limit: int | None, source: str | Path) -> Dataset:
    if limit is not None and limit < 1:
        raise ValueError(f"max_utterances_per_speaker is {limit}: give a positive number, or none to load all")
    owners, ids, counts, positions = rows["speaker"][:], rows["id"][:], Counter(), []
    check_speakers(speakers or (), owners, source)
    for position in sorted(range(len(ids)), key=ids.__getitem__):
        speaker = owners[position]
        if (speakers is None or speaker in speakers) and (limit is None or counts[speaker] < limit):
            counts[speaker] += 1
            positions.append(position)
    return rows.select(positions)


def _load_stream(source, config, split, columns, speakers, limit) -> Dataset:
    options = {"source": source, "config": config, "split": split, "columns": columns}
    rows = stored(_stream, ROWS, **options, speakers=speakers, limit=limit)
    return _standardise(rows, {name: name for name in columns}, source, split)


def _stream(source, config, split, columns, speakers, limit) -> Iterator[dict]:
    """Rows of the wanted speakers (None: of all), at most `limit` of each, read no further than needed."""
    counts, seen, number = Counter(), set(), 0
    stream = datasets.load_dataset(source, config, split=split, streaming=True)
    # Arrow batches, since plain iteration encodes every Audio anew and needs torchcodec for it.
    for batch in stream.with_format("arrow").iter(STREAM_BATCH):
        _check_columns(batch.column_names, columns, source)
        feature = (stream.features or {}).get(columns["speaker"])
        names = _speaker_names(batch[columns["speaker"]].to_pylist(), feature, columns["speaker"], source)
        seen.update(names)
        for position, speaker in enumerate(names):
            if (speakers is None or speaker in speakers) and (limit is None or counts[speaker] < limit):
                counts[speaker] += 1
                row = batch.slice(position, 1).to_pylist()[0]
                audio = fetched(row[columns["audio"]], source, "audio", "audio files")
                name = _utterance_id(row.get(columns["id"]), audio["path"], number + position, None, split)
                yield {"id": name, "speaker": speaker, "text": row[columns["text"]], "audio": audio}
        number += len(names)
        if speakers and limit and all(counts[speaker] >= limit for speaker in speakers):
            return
    if number == 0:
        raise ValueError(f"split '{split}' of {source} holds no utterances")
    check_speakers(speakers or (), seen, source)
