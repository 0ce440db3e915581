"""The official LibriSpeech tree on disk, read as rows."""

from pathlib import Path


def subsets(source: str | Path) -> dict[str, Path]:
    """Folders of `source` or `source`/LibriSpeech laid out as <subset>/<speaker>/<chapter>/*.trans.txt, by name."""
    for root in (Path(source), Path(source) / "LibriSpeech"):
        folders = sorted(root.iterdir()) if root.is_dir() else []
        found = {folder.name: folder for folder in folders if any(folder.glob("*/*/*.trans.txt"))}
        if found:
            return found
    return {}


def read_subset(source: str | Path, subset: str) -> list[dict]:
    """Rows {"id", "speaker", "text", "audio": path} of one subset ("train-clean-100") in the order of their ids.

    Layout: https://www.openslr.org/12. A line of a `*.trans.txt` file is an utterance id and its transcript; the audio
    is `<id>.flac` beside it, and is not opened here. Raises ValueError where the tree has no such subset.
    """
    folders = subsets(source)
    if subset not in folders:
        raise ValueError(f"no subset '{subset}' in the LibriSpeech tree {source}; it holds {', '.join(folders)}")
    transcripts = sorted(folders[subset].glob("*/*/*.trans.txt"))
    return sorted((row for transcript in transcripts for row in _read_chapter(transcript)), key=lambda row: row["id"])


def _read_chapter(transcript: Path) -> list[dict]:
    speaker = transcript.parents[1].name
    rows = []
    for line in transcript.read_text(encoding="utf-8").splitlines():
        if line.strip():
            utterance, _, text = line.strip().partition(" ")
            audio = str(transcript.with_name(f"{utterance}.flac"))
            rows.append({"id": utterance, "speaker": speaker, "text": text.strip(), "audio": audio})
    return rows
