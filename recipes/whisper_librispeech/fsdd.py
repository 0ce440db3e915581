"""Writes the Free Spoken Digit Dataset as a folder that recipes read.

    git clone https://github.com/Jakobovski/free-spoken-digit-dataset out/fsdd_clone
    python recipes/whisper_librispeech/fsdd.py out/fsdd_clone data/fsdd

The clone (Jackson et al., CC BY-SA 4.0) names its files <digit>_<speaker>_<take>.wav and has no
table. This writes `data/fsdd/metadata.csv`, with the columns file_name, speaker, text and split,
and the recordings at 16 kHz. Takes 0 to 4 are the test split, as the clone's page says.
"""

import argparse
import csv
from pathlib import Path

import soundfile
from tqdm.auto import tqdm

from hf_unlearn.data.speech import SAMPLING_RATE, decode_audio
from hf_unlearn.experiments import run_script

WORDS = "zero one two three four five six seven eight nine".split()
TEST_TAKES = 5


def row_of(recording: Path) -> tuple[str, str, str, str]:
    """The row of the table: (file_name, speaker, text, split).

    Raises:
        ValueError: the file has another kind of name.
    """
    digit, _, rest = recording.stem.partition("_")
    speaker, _, take = rest.rpartition("_")
    if not (speaker.isidentifier() and take.isdigit() and digit in map(str, range(10))):
        raise ValueError(f"{recording} is not named <digit>_<speaker>_<take>.wav: remove it")
    split = "test" if int(take) < TEST_TAKES else "train"
    return f"{speaker}/{recording.stem}.flac", speaker, WORDS[int(digit)], split


def write_digits(clone: str | Path, folder: str | Path) -> None:
    """Writes all recordings of a clone, and their table, to `folder`.

    Raises:
        ValueError: `clone` has no recordings, or one with another kind of name.
    """
    recordings, folder = sorted((Path(clone) / "recordings").glob("*.wav")), Path(folder)
    if not recordings:
        raise ValueError(
            f"{clone} has no recordings/*.wav: give a clone of "
            "https://github.com/Jakobovski/free-spoken-digit-dataset"
        )
    rows = [row_of(recording) for recording in recordings]
    for recording, (name, *_) in zip(tqdm(recordings, desc="recordings", unit="file"), rows):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        samples = decode_audio({"path": str(recording), "bytes": None})
        soundfile.write(folder / name, samples, SAMPLING_RATE)
    with open(folder / "metadata.csv", "w", newline="") as file:
        header = ("file_name", "speaker", "text", "split")
        csv.writer(file, lineterminator="\n").writerows([header, *sorted(rows)])


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("clone", help="a clone of the Free Spoken Digit Dataset")
    parser.add_argument("folder", help="where to write it, such as data/fsdd")
    args = parser.parse_args(argv)
    write_digits(args.clone, args.folder)


if __name__ == "__main__":
    run_script(main, __file__)
