"""Copies the excerpt of LibriSpeech that the results of this recipe come from.

    tar -xzf test-other.tar.gz
    python recipes/whisper_librispeech/ten_speakers.py LibriSpeech data/LibriSpeech

The archive is from https://www.openslr.org/12 (Panayotov et al. 2015, CC BY 4.0). The excerpt has
ten speakers of it, five women and five men, with the first ten utterances of one chapter each. It
keeps the official folders, files and names.
"""

import argparse
import shutil
from pathlib import Path

from hf_unlearn.experiments import run_script

SUBSET = "test-other"
# {speaker: chapter}
CHAPTERS = {
    "1688": "142285",
    "1998": "15444",
    "2033": "164914",
    "2414": "128291",
    "2609": "156975",
    "3005": "163389",
    "3080": "5032",
    "3331": "159605",
    "367": "130732",
    "533": "1066",
}
# The numbers of the utterances, in the names of the files and in the transcripts.
NUMBERS = [f"{number:04d}" for number in range(10)]


def copy_chapter(source: Path, target: Path) -> None:
    """Copies the utterances NUMBERS of a chapter's folder, and their lines of its transcript."""
    target.mkdir(parents=True, exist_ok=True)
    (transcript,) = source.glob("*.trans.txt")
    lines = [
        line
        for line in transcript.read_text(encoding="utf-8").splitlines()
        if line.partition(" ")[0].rpartition("-")[2] in NUMBERS
    ]
    for line in lines:
        name = f"{line.partition(' ')[0]}.flac"
        shutil.copyfile(source / name, target / name)
    (target / transcript.name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def copy_excerpt(source: str | Path, folder: str | Path) -> None:
    """Copies the excerpt from an official tree to `folder`.

    Raises:
        ValueError: the tree lacks one of the chapters.
    """
    for speaker, chapter in CHAPTERS.items():
        path = Path(SUBSET) / speaker / chapter
        if not (Path(source) / path).is_dir():
            raise ValueError(
                f"{source} has no folder {path}: give the folder LibriSpeech of test-other.tar.gz "
                "(https://www.openslr.org/12)"
            )
        copy_chapter(Path(source) / path, Path(folder) / path)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", help="the folder LibriSpeech of the archive")
    parser.add_argument("folder", help="where to write the excerpt, such as data/LibriSpeech")
    args = parser.parse_args(argv)
    copy_excerpt(args.source, args.folder)


if __name__ == "__main__":
    run_script(main, __file__)
