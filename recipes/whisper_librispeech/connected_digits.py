"""Joins single spoken digits into utterances of several digits, and writes them as an audiofolder.

    python recipes/whisper_librispeech/connected_digits.py data/fsdd digits

reads the folder that fsdd.py writes, or another one with a spoken digit per file and `metadata.csv`
with the columns file_name, speaker, text and split. It writes `digits/metadata.csv`, with the same
columns, and the audio beside it. Each utterance joins 3 to 5 recordings of one speaker with short
pauses; training and test utterances are joined from recordings of their own split. The same seed
gives the same audio.
"""

import argparse
import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
import soundfile
from tqdm.auto import tqdm

from hf_unlearn.data.speech import SAMPLING_RATE, decode_audio
from hf_unlearn.experiments import run_script

# seconds between two recordings
PAUSE = (0.05, 0.15)


def read_takes(folder: Path) -> dict[tuple[str, str], list[tuple[str, np.ndarray]]]:
    """Reads (text, samples) of every recording, by (split, speaker).

    Raises:
        ValueError: there is no metadata.csv, or it lacks a column.
    """
    takes = defaultdict(list)
    for row in tqdm(rows_of_table(folder / "metadata.csv"), desc="takes", unit="file"):
        samples = decode_audio({"path": str(folder / row["file_name"]), "bytes": None})
        takes[row["split"], row["speaker"]].append((row["text"], samples))
    return takes


def rows_of_table(table: Path) -> list[dict]:
    if not table.is_file():
        raise ValueError(
            f"there is no {table}: write it with fsdd.py, from a clone of the Free Spoken Digit "
            "Dataset"
        )
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    missing = {"file_name", "speaker", "text", "split"} - set(rows[0] if rows else ())
    if missing:
        raise ValueError(f"{table} has no column {', '.join(sorted(missing))}")
    return rows


def join(takes: list[tuple[str, np.ndarray]], rng: np.random.Generator) -> tuple[str, np.ndarray]:
    """Joins 3 to 5 recordings drawn from `takes`, with pauses around each. Returns the text and the
    samples."""
    chosen = [takes[i] for i in rng.integers(len(takes), size=rng.integers(3, 6))]

    def pause() -> np.ndarray:
        return np.zeros(int(rng.uniform(*PAUSE) * SAMPLING_RATE), dtype=np.float32)

    pieces = [piece for _, samples in chosen for piece in (samples, pause())]
    return " ".join(text for text, _ in chosen), np.concatenate([pause(), *pieces])


def inside(folder: Path, name: str) -> Path:
    """`folder / name` for a name that comes from the data.

    Raises:
        ValueError: the name leads out of the folder.
    """
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(
            f"the data names {name!r}, which would be written outside of {folder}: correct its "
            "metadata.csv"
        )
    return path


def write_connected(
    source: str | Path, folder: str | Path, *, train: int = 200, test: int = 40, seed: int = 0
) -> Path:
    """Writes `train` and `test` utterances of each speaker as an audiofolder.

    Raises:
        ValueError: `source` has no metadata.csv or lacks a column, or a name leads out of `folder`.
    """
    folder, counts, rows = Path(folder), {"train": train, "test": test}, []
    takes = read_takes(Path(source))
    for number, ((split, speaker), own) in enumerate(
        tqdm(sorted(takes.items()), desc="speakers", unit="speaker")
    ):
        rng = np.random.default_rng([seed, number])
        inside(folder, f"{split}/{speaker}").mkdir(parents=True, exist_ok=True)
        for i in range(counts[split]):
            text, samples = join(own, rng)
            name = f"{split}/{speaker}/{i:03d}.flac"
            soundfile.write(folder / name, samples, SAMPLING_RATE)
            rows.append((name, speaker, text, split))
    with open(folder / "metadata.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file_name", "speaker", "text", "split"), *rows])
    return folder


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "source",
        help="a folder of single digits with metadata.csv (file_name, speaker, text, split), such "
        "as data/fsdd",
    )
    parser.add_argument("folder", help="where to write the audiofolder")
    parser.add_argument(
        "--train", type=int, default=200, help="training utterances of each speaker"
    )
    parser.add_argument("--test", type=int, default=40, help="test utterances of each speaker")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    write_connected(args.source, args.folder, train=args.train, test=args.test, seed=args.seed)


if __name__ == "__main__":
    run_script(main, __file__)
