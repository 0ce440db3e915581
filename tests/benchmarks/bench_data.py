"""Measures reading speech: preparing rows until the first batch, an epoch of training, and streams.

    .venv/bin/python tests/benchmarks/bench_data.py
    .venv/bin/python tests/benchmarks/bench_data.py --parts prepare stream --dry

- `prepare`: the rows name 100 generated files of ten seconds again and again, so a set of 100,000
  rows takes hardly any disk itself. Measured: the time until the first batch of 16 is there.
- `epoch`: one pass of training over files that differ, with two workers, by transformers' own
  trainer: 48 files for a small model, 16 for one of whisper-tiny's shape. The features are computed
  on demand, or were stored before in float16. The CPU's time, of the workers too, is a row of its
  own: other programs on the machine hardly change it.
- `stream`: a set of 1,000 to 100,000 rows, for which files on this disk stand instead of the Hub's,
  is read to its end; 20 utterances of each of its 50 speakers are kept. Measured: the time until
  the splits are there. Each set is read twice, and the splits have to be the same.

Each measurement is a process of its own; those to be compared take turns. Rows go to `results.csv`:
the time, the peak of the memory that was added, and as "disk" what the cache takes in GB. `--dry`
makes all sets tiny, to try the script, and appends no rows.
"""

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import torch
from records import DATA, append, run_columns
from shapes import SHAPES
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

from hf_unlearn.data import SpeechArguments, load_splits
from hf_unlearn.data.speech import SpeechCollator, load_speech, prepare
from hf_unlearn.experiments.speech.tiny_whisper import build_processor, build_word_tokenizer
from hf_unlearn.report.phases import PhaseClock

RATE = 16_000
FILES, SECONDS, SPEAKERS, BATCH = 100, 10, 50, 16
ROWS = (1000, 2000, 10_000, 100_000)
# Storing features takes minutes and gigabytes, so this is done for one set only.
STORED_ROWS = 2000
# model: rows of an epoch
EPOCHS = {"whisper-demo": 48, "whisper-tiny": 16}
EPOCH_BATCH, WORKERS, ROUNDS = 8, 2, 2
# rows of a streamed file, and of each speaker that are kept
SHARD, KEPT = 1000, 20
STREAMED_ROWS = (1000, 10_000, 100_000)
SPLITS = ("forget", "forget_test", "retain", "test")
# the phase that is reported
MEASURED = "measured"


# ---- the data ------------------------------------------------------------------------------------


def write_files(folder: Path, count: int, seconds: int = SECONDS) -> float:
    """Writes files 0.flac, 1.flac, ... of noise; returns their mean size in bytes."""
    noise = np.random.default_rng(0)
    for number in range(count):
        sound = 0.1 * noise.standard_normal(seconds * RATE)
        soundfile.write(folder / f"{number}.flac", sound, RATE)
    return sum((folder / f"{number}.flac").stat().st_size for number in range(count)) / count


def write_table(folder: Path, rows: int, files: int) -> Path:
    lines = ["id,audio,speaker,text"]
    for row in range(rows):
        words = f"number {row} of {rows}"
        lines.append(f"u{row:07d},{row % files}.flac,s{row % SPEAKERS},{words}")
    table = folder / f"rows{rows}.csv"
    table.write_text("\n".join(lines) + "\n")
    return table


def write_shards(folder: Path, rows: int) -> list[str]:
    """Parquet files that hold audio of a second, all the same file by another name."""
    first = folder / "shard0.parquet"
    if not first.exists():
        write_files(folder, SHARD, seconds=1)
        content = [
            {
                "id": f"u{row}",
                "audio": {"bytes": (folder / f"{row}.flac").read_bytes(), "path": None},
                "speaker": f"s{row % SPEAKERS}",
                "text": "one two",
            }
            for row in range(SHARD)
        ]
        # Compression would see that the audio is the same.
        pq.write_table(pa.Table.from_pylist(content), first, compression="none")
    shards = [folder / f"shard{number}.parquet" for number in range(rows // SHARD)]
    for shard in shards:
        if not shard.exists():
            shard.symlink_to(first)
    return list(map(str, shards))


# ---- one measurement, in a process of its own ----------------------------------------------------


def speech_rows(table: str, how: str) -> tuple[datasets.Dataset, SpeechCollator]:
    """Prepared rows and their collator. No features are computed for `how` "on demand"."""
    words = [f"number of {' '.join(str(n) for n in range(10))}"]
    processor = build_processor(build_word_tokenizer(words), chunk_length=30)
    rows = load_speech(table, split="train", speaker_column="speaker")
    store = None if how == "on demand" else how
    return prepare(rows, processor, max_label_length=16, store=store), SpeechCollator(processor)


def prepare_rows(clock: PhaseClock, table: str, how: str) -> None:
    with clock.phase(MEASURED):
        rows, collator = speech_rows(table, how)
        batch = collator([rows[number] for number in range(BATCH)])
    assert batch["input_features"].shape[0] == BATCH


def train_epoch(clock: PhaseClock, table: str, how: str, shape: str) -> float:
    """Returns the seconds of CPU time."""
    rows, collator = speech_rows(table, how)
    torch.manual_seed(0)
    model, _ = SHAPES[shape](30)
    words = len(collator.processor.tokenizer)
    if words > model.config.vocab_size:
        model.resize_token_embeddings(words)
    with tempfile.TemporaryDirectory() as folder:
        args = Seq2SeqTrainingArguments(
            output_dir=folder,
            num_train_epochs=1,
            per_device_train_batch_size=EPOCH_BATCH,
            dataloader_num_workers=WORKERS,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = Seq2SeqTrainer(model, args, data_collator=collator, train_dataset=rows)
        before = cpu_seconds()
        with clock.phase(MEASURED):
            trainer.train()
    # Workers count once they have ended.
    del trainer
    gc.collect()
    return cpu_seconds() - before


def cpu_seconds() -> float:
    """The CPU's time of this process and of those that it started and that have ended."""
    times = os.times()
    return sum((times.user, times.system, times.children_user, times.children_system))


def read_stream(clock: PhaseClock, shards: list[str]) -> dict[str, list[str]]:
    """Returns the ids of each split."""
    load_dataset = datasets.load_dataset

    def load_shards(source: str, config: str | None, **options: object) -> object:
        del options["revision"]
        return load_dataset("parquet", data_files=shards, **options)

    hub = SimpleNamespace(dataset_info=lambda source, revision: SimpleNamespace(sha="commit"))
    args = SpeechArguments(
        dataset="someone/speech",
        train_split="train",
        speaker_column="speaker",
        forget_speakers=["s0"],
        max_utterances_per_speaker=KEPT,
        streaming=True,
    )
    with (
        patch.object(datasets, "load_dataset", load_shards),
        patch("hf_unlearn.data.streams.HfApi", lambda: hub),
        clock.phase(MEASURED),
    ):
        splits = load_splits(args, seed=0)
    return {name: getattr(splits, name)["id"][:] for name in SPLITS}


PARTS = {"prepare": prepare_rows, "epoch": train_epoch, "stream": read_stream}


def measure(part: str, **inputs: object) -> dict:
    """Runs a part in this process.

    Returns:
        Its seconds, the memory that it added and the size of the cache, both in GB, and what it
        returns.
    """
    clock = PhaseClock()
    with clock.phase("before"):
        pass
    content = PARTS[part](clock, **inputs)
    before, measured = clock.phases["before"], clock.phases[MEASURED]
    cache = Path(datasets.config.HF_DATASETS_CACHE)
    disk = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    return {
        "seconds": measured["seconds"],
        "memory": (measured["memory_mb"] - before["memory_mb"]) * 2**20 / 1e9,
        "disk": disk / 1e9,
        "content": content,
    }


def measure_in_subprocess(part: str, **inputs: object) -> dict:
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, __file__, "--one", part, json.dumps(inputs), cache]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{part} of {str(inputs)[:200]} fails:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


# ---- all measurements of a part ------------------------------------------------------------------


class Recorder:
    """Prints rows, and appends them to `results.csv`."""

    def __init__(self, dry: bool):
        self._dry, self._common = dry, {**run_columns(), "tuning": DATA}

    def add(self, model: str, rows: int, method: str, **columns: float) -> None:
        columns = {name: f"{value:.4g}" for name, value in columns.items()}
        print(model, rows, method, columns, flush=True)
        if not self._dry:
            append({**self._common, "model": model, "k": rows, "method": method, **columns})


def measure_preparing(folder: Path, recorder: Recorder, dry: bool) -> None:
    files, model = (4 if dry else FILES), "whisper features"
    size = write_files(folder, files)
    for rows in [20] if dry else ROWS:
        table = str(write_table(folder, rows, files))
        recorder.add(model, rows, "audio: disk", peak_gb=rows * size / 1e9)
        stored = ["float16", "float32"] if dry or rows == STORED_ROWS else []
        for how in ["on demand", *stored]:
            found = measure_in_subprocess("prepare", table=table, how=how)
            recorder.add(model, rows, how, step_s=found["seconds"], peak_gb=found["memory"])
            recorder.add(model, rows, f"{how}: disk", peak_gb=found["disk"])


def measure_epochs(folder: Path, recorder: Recorder, dry: bool) -> None:
    write_files(folder, 16 if dry else max(EPOCHS.values()))
    for shape, rows in {"whisper-demo": 16}.items() if dry else EPOCHS.items():
        table = str(write_table(folder, rows, rows))
        rounds = [
            {
                how: measure_in_subprocess("epoch", table=table, how=how, shape=shape)
                for how in ("on demand", "float16")
            }
            for _ in range(1 if dry else ROUNDS)
        ]
        for how in rounds[0]:
            seconds = statistics.median(found[how]["seconds"] for found in rounds)
            cpu = statistics.median(found[how]["content"] for found in rounds)
            method = f"epoch, {WORKERS} workers, {how}"
            recorder.add(shape, rows, method, step_s=seconds)
            recorder.add(shape, rows, f"{method}: CPU", step_s=cpu)


def measure_streams(folder: Path, recorder: Recorder, dry: bool) -> None:
    model = "streamed speech"
    for rows in [2000] if dry else STREAMED_ROWS:
        shards = write_shards(folder, rows)
        found = measure_in_subprocess("stream", shards=shards)
        again = measure_in_subprocess("stream", shards=shards)
        assert found["content"] == again["content"], "the splits differ"
        size = Path(shards[0]).stat().st_size * len(shards) / 1e9
        recorder.add(model, rows, "audio: disk", peak_gb=size)
        recorder.add(model, rows, "stream", step_s=found["seconds"], peak_gb=found["memory"])
        recorder.add(model, rows, "stream: disk", peak_gb=found["disk"])


MEASURES = {"prepare": measure_preparing, "epoch": measure_epochs, "stream": measure_streams}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--dry", action="store_true", help="tiny sets; append no rows")
    parser.add_argument("--one", nargs=3, metavar=("PART", "INPUTS", "CACHE"))
    arguments = parser.parse_args()
    if arguments.one:
        part, inputs, datasets.config.HF_DATASETS_CACHE = arguments.one
        print(json.dumps(measure(part, **json.loads(inputs))))
        return
    recorder = Recorder(arguments.dry)
    for part in arguments.parts:
        with tempfile.TemporaryDirectory() as folder:
            MEASURES[part](Path(folder), recorder, arguments.dry)


if __name__ == "__main__":
    main()
