"""The official LibriSpeech tree on disk, read as rows."""

from pathlib import Path

from transformers.utils import logging

from ...files import text_of
from ..tables import few

logger = logging.get_logger(__name__)


def subsets(source: str | Path) -> dict[str, Path]:
    """Folders of `source` or `source`/LibriSpeech laid out as
    <subset>/<speaker>/<chapter>/*.trans.txt, by name."""
    for root in (Path(source), Path(source) / "LibriSpeech"):
        folders = sorted(root.iterdir()) if root.is_dir() else []
        found = {folder.name: folder for folder in folders if any(folder.glob("*/*/*.trans.txt"))}
        if found:
            return found
    return {}


def read_subset(source: str | Path, subset: str) -> list[dict]:
    """Rows {"id", "speaker", "text", "audio": path} of one subset ("train-clean-100") in the order
    of their ids.

    Layout: https://www.openslr.org/12. A line of a `*.trans.txt` file is an utterance id and its
    transcript; the audio is `<id>.flac` beside it, and is not opened here. One warning names audio
    without a line, another lines without audio. Raises ValueError where the tree has no such
    subset.
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
    _warn_of_the_unmatched(rows, folders[subset])
    return rows


def _read_chapter(transcript: Path) -> list[dict]:
    speaker = transcript.parents[1].name
    rows = []
    for line in text_of(transcript).split("\n"):
        if line.strip():
            utterance, _, text = line.strip().partition(" ")
            audio = str(transcript.with_name(f"{utterance}.flac"))
            rows.append({"id": utterance, "speaker": speaker, "text": text.strip(), "audio": audio})
    return rows


def _warn_of_the_unmatched(rows: list[dict], folder: Path) -> None:
    files = {str(path): path.stem for path in folder.glob("*/*/*.flac")}
    named = {row["audio"]: row["id"] for row in rows}
    silent, gone = (
        [first[path] for path in first if path not in second]
        for first, second in ((files, named), (named, files))
    )
    if silent:
        logger.warning_once(
            f"{folder}: {len(silent)} audio files have no line in a *.trans.txt, and are left out: "
            f"{few(silent)}"
        )
    if gone:
        logger.warning_once(
            f"{folder}: {len(gone)} lines of *.trans.txt have no audio file beside "
            f"them: {few(gone)}"
        )
