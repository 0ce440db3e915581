"""Reads folders of audio with one folder per label, such as Speech Commands, as rows."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from ...files import read_text_file

# Speech Commands: <speaker>_nohash_<number>.wav
SPEAKER_END = "_nohash_"
# Speech Commands names the files of these splits in lists; all others are for training.
LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}


def label_folders(source: str | Path, suffixes: Iterable[str]) -> dict[str, Path]:
    """The folder of each split; {} if there are no folders of labels.

    A split is a folder of labels' folders, which hold the audio. If `source` itself is one, its
    splits are "train" and those of `LISTS`.

    Args:
        suffixes: of audio files.
    """
    root = Path(source)
    if _labels(root, suffixes):
        return {split: root for split in ("train", *_lists(root))}
    folders = sorted(folder for folder in root.iterdir() if folder.is_dir())
    return {folder.name: folder for folder in folders if _labels(folder, suffixes)}


def read_label_folder(source: str | Path, split: str, suffixes: Iterable[str]) -> list[dict]:
    """Rows {"id", "speaker", "text": label, "audio": path} of one split, by id.

    The speaker is what stands before "_nohash_" in the file's name; "" if that is missing. Folders
    that begin with "_" or "." do not count as labels: Speech Commands keeps noise there.

    Raises:
        ValueError: there is no such split.
    """
    folders = label_folders(source, suffixes)
    if split not in folders:
        raise ValueError(f"no split '{split}' in {source}; it holds {', '.join(folders)}")
    folder = folders[split]
    listed = _lists(folder) if folder == Path(source) else {}
    elsewhere = set().union(*(names for name, names in listed.items() if name != split))
    rows = []
    for path in _audio(folder, suffixes):
        name = path.relative_to(folder).as_posix()
        if name in listed[split] if split in listed else name not in elsewhere:
            speaker, end, _ = path.name.partition(SPEAKER_END)
            rows.append(
                {
                    "id": path.relative_to(source).as_posix(),
                    "speaker": speaker if end else "",
                    "text": path.parent.name,
                    "audio": str(path),
                }
            )
    return sorted(rows, key=lambda row: row["id"])


def _lists(root: Path) -> dict[str, set[str]]:
    """The paths, relative to the root, that belong to a split of their own."""
    files = {split: root / name for split, name in LISTS.items()}
    return {
        split: {line.strip() for line in read_text_file(file).splitlines() if line.strip()}
        for split, file in files.items()
        if file.is_file()
    }


def _labels(folder: Path, suffixes: Iterable[str]) -> bool:
    return next(_audio(folder, suffixes), None) is not None


def _audio(folder: Path, suffixes: Iterable[str]) -> Iterator[Path]:
    """The audio files in the folders of a folder's labels."""
    ends = tuple(suffixes)
    for path in folder.glob("*/*"):
        if path.suffix.lower() in ends and not path.parent.name.startswith(("_", ".")):
            yield path
