"""Measures what preparing speech takes, from the rows to the first batch: time, peak memory, disk.

    .venv/bin/python tests/benchmarks/bench_data.py
    .venv/bin/python tests/benchmarks/bench_data.py --rows 1000 --dry

The rows name 100 generated files of ten seconds again and again, so a set of 100,000 rows takes
hardly any disk itself. Each measurement is a process of its own. Rows go to `results.csv`: the time
until the first batch of 16 is there, the peak of the memory that was added, and as "disk" what the
cache takes in GB. `--dry` appends no rows.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from records import DATA, append, run_columns

FILES, SECONDS, SPEAKERS, BATCH = 100, 10, 50, 16
# Storing the features of more rows takes minutes and gigabytes.
STORED_ROWS = 2000


def write_files(folder: Path) -> None:
    import numpy as np
    import soundfile

    noise = np.random.default_rng(0)
    for number in range(FILES):
        sound = 0.1 * noise.standard_normal(SECONDS * 16_000)
        soundfile.write(folder / f"{number}.flac", sound, 16_000)


def write_table(folder: Path, rows: int) -> Path:
    lines = ["id,audio,speaker,text"]
    for row in range(rows):
        words = f"number {row} of {rows}"
        lines.append(f"u{row:07d},{row % FILES}.flac,s{row % SPEAKERS},{words}")
    table = folder / f"rows{rows}.csv"
    table.write_text("\n".join(lines) + "\n")
    return table


def measure(table: Path, how: str) -> dict[str, float]:
    """Prepares the rows in this process, and reads a batch."""
    import datasets

    from hf_unlearn.data.speech import SpeechCollator, load_speech, prepare
    from hf_unlearn.experiments.speech.tiny_whisper import build_processor, build_word_tokenizer
    from hf_unlearn.report.phases import PhaseClock

    words = [f"number of {' '.join(str(n) for n in range(10))}"]
    processor = build_processor(build_word_tokenizer(words), chunk_length=30)
    options = {"max_label_length": 16, "store": None if how == "on demand" else how}
    clock = PhaseClock()
    with clock.phase("before"):
        pass
    with clock.phase("prepare"):
        start = time.perf_counter()
        rows = load_speech(table, split="train", speaker_column="speaker")
        rows = prepare(rows, processor, **options)
        batch = SpeechCollator(processor)([rows[number] for number in range(BATCH)])
        seconds = time.perf_counter() - start
    assert batch["input_features"].shape[0] == BATCH
    cache = Path(datasets.config.HF_DATASETS_CACHE)
    disk = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    memory = clock.phases["prepare"]["memory_mb"] - clock.phases["before"]["memory_mb"]
    return {"step_s": seconds, "peak_gb": memory * 2**20 / 1e9, "disk": disk / 1e9}


def measure_in_subprocess(table: Path, how: str) -> dict:
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, __file__, "--one", str(table), how, cache]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"failure": done.stderr.strip().splitlines()[-1][:200]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", type=int, default=[1000, 2000, 10_000, 100_000])
    parser.add_argument("--dry", action="store_true", help="append no rows")
    parser.add_argument("--one", nargs=3, metavar=("TABLE", "HOW", "CACHE"))
    arguments = parser.parse_args()
    if arguments.one:
        import datasets

        table, how, datasets.config.HF_DATASETS_CACHE = arguments.one
        print(json.dumps(measure(Path(table), how)))
        return
    common = {**run_columns(), "tuning": DATA, "model": "whisper features"}
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder))
        for rows in arguments.rows:
            table = write_table(Path(folder), rows)
            stored = ["float16", "float32"] if rows <= STORED_ROWS else []
            for how in ["on demand", *stored]:
                measured = measure_in_subprocess(table, how)
                disk = measured.pop("disk", None)
                print(rows, how, measured, "disk", disk)
                if not arguments.dry:
                    append({**common, "k": rows, "method": how, **measured})
                    append({**common, "k": rows, "method": f"{how}: disk", "peak_gb": disk})


if __name__ == "__main__":
    main()
