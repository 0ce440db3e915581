"""Reads the official LibriSpeech tree on disk as rows."""

from pathlib import Path

from transformers.utils import logging

from ...files import read_text_file
from ..names import first_few

logger = logging.get_logger(__name__)


def subsets(source: str | Path) -> dict[str, Path]:
    """The subsets' folders by name; none if there is no tree.

    A tree is `source` or `source`/LibriSpeech, with files <subset>/<speaker>/<chapter>/*.trans.txt.
    """
    for root in (Path(source), Path(source) / "LibriSpeech"):
        folders = sorted(root.iterdir()) if root.is_dir() else []
        folders_by_name = {
            folder.name: folder for folder in folders if any(folder.glob("*/*/*.trans.txt"))
        }
        if folders_by_name:
            return folders_by_name
    return {}


def read_subset(source: str | Path, subset: str) -> list[dict]:
    """Rows {"id", "speaker", "text", "audio": path} of one subset ("train-clean-100"), by id.

    Layout: https://www.openslr.org/12. A line of a `*.trans.txt` file is an utterance id and its
    transcript; the audio is `<id>.flac` beside that file, and is not opened here. One warning names
    audio files without a line, another one lines without an audio file.

    Raises:
        ValueError: the tree has no such subset.
    """
    folders = subsets(source)
    if subset not in folders:
        raise ValueError(
            f"no subset '{subset}' in the LibriSpeech tree {source}; it holds {', '.join(folders)}"
        )
    transcripts = sorted(folders[subset].glob("*/*/*.trans.txt"))
    rows = sorted(
        (row for transcript in transcripts for row in _read_chapter(transcript)),
        key=lambda row: row["id"],
    )
    _warn_of_unmatched(rows, folders[subset])
    return rows


def _read_chapter(transcript: Path) -> list[dict]:
    speaker = transcript.parents[1].name
    rows = []
    for line in read_text_file(transcript).split("\n"):
        if line.strip():
            utterance, _, text = line.strip().partition(" ")
            audio = str(transcript.with_name(f"{utterance}.flac"))
            rows.append({"id": utterance, "speaker": speaker, "text": text.strip(), "audio": audio})
    return rows


def _warn_of_unmatched(rows: list[dict], folder: Path) -> None:
    files = {str(path): path.stem for path in folder.glob("*/*/*.flac")}
    listed = {row["audio"]: row["id"] for row in rows}
    without_line = [name for path, name in files.items() if path not in listed]
    without_file = [name for path, name in listed.items() if path not in files]
    if without_line:
        logger.warning_once(
            f"{folder}: {len(without_line)} audio files have no line in a *.trans.txt, and are "
            f"left out: {first_few(without_line)}"
        )
    if without_file:
        logger.warning_once(
            f"{folder}: {len(without_file)} lines of *.trans.txt have no audio file beside them: "
            f"{first_few(without_file)}"
        )
