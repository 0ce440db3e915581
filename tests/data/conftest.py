"""Fixtures: tiny generated speech, a tiny Whisper processor, a `datasets` cache for each test."""

import io
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import soundfile
from datasets import Audio, Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, WhisperFeatureExtractor

from tests.support.helpers import real_data

WORDS = ["<pad>", "<start>", "<end>", "<unk>", "one", "two", "three", "four"]


class TinyProcessor:
    """What `prepare` needs of a WhisperProcessor: chunks of one second, eight words."""

    def __init__(self):
        tokenizer = Tokenizer(
            models.WordLevel({word: row for row, word in enumerate(WORDS)}, unk_token="<unk>")
        )
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 2)]
        )
        self.tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>"
        )
        self.feature_extractor = WhisperFeatureExtractor(feature_size=8, chunk_length=1)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


class Commits:
    """Stands for the Hub's API: `now` is each dataset's commit; None means offline."""

    def __init__(self):
        self.now, self.asked = "first", []

    def dataset_info(self, source, revision=None):
        self.asked.append((source, revision))
        if self.now is None:
            raise ConnectionError("offline")
        return SimpleNamespace(sha=self.now)


@pytest.fixture(autouse=True)
def commits(monkeypatch) -> Commits:
    commits = Commits()
    monkeypatch.setattr("hf_unlearn.data.streams.HfApi", lambda: commits)
    return commits


@pytest.fixture
def processor():
    return TinyProcessor()


def sound(seconds=0.2, seed=0, rate=16_000, channels=1):
    shape = (int(seconds * rate), channels)
    return (0.1 * np.random.default_rng(seed).normal(size=shape)).astype("float32").squeeze()


def flac(**options) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, sound(**options), options.get("rate", 16_000), format="FLAC")
    return file.getvalue()


def rows(speakers="abc", utterances=4, prefix="", text="one two", **columns) -> Dataset:
    """Rows as `load_speech` gives them, `utterances` of each speaker."""
    names = [
        (speaker, f"{prefix}{speaker}-{take}") for speaker in speakers for take in range(utterances)
    ]
    audio = [
        {"bytes": flac(seed=seed), "path": f"{name}.flac"} for seed, (_, name) in enumerate(names)
    ]
    data = {"id": [name for _, name in names], "speaker": [speaker for speaker, _ in names]}
    data |= {"text": [text] * len(names), "audio": audio} | columns
    return Dataset.from_dict(data).cast_column("audio", Audio(decode=False))


@pytest.fixture
def make_rows():
    return rows


@pytest.fixture
def hub_rows():
    """LibriSpeech as on the Hub: columns file, audio, text, speaker_id (int), chapter_id, id."""
    table = rows(["374", "1034", "2007"], text="ONE TWO")
    table = table.add_column("speaker_id", [int(name) for name in table["speaker"]]).remove_columns(
        "speaker"
    )
    table = table.add_column("chapter_id", [1] * len(table)).add_column(
        "file", [f"{name}.flac" for name in table["id"]]
    )
    return table.cast_column("audio", Audio(sampling_rate=16_000))


@pytest.fixture
def folder(tmp_path):
    """A folder as audiofolder reads it: metadata.csv with file_name, speaker, text and split."""
    root = tmp_path / "folder"
    lines = ["file_name,speaker,text,split"]
    for speaker in ("007", "008"):
        (root / speaker).mkdir(parents=True)
        for take in range(3):
            name = f"{speaker}/{take}.flac"
            (root / name).write_bytes(flac(seed=take))
            lines.append(
                f"{name},{speaker},{'null' if take else 'one two'},{'train' if take else 'test'}"
            )
    (root / "metadata.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture
def tree(tmp_path):
    """An official LibriSpeech tree of one subset: two speakers, three utterances each."""
    for speaker in ("14", "367"):
        chapter = tmp_path / "LibriSpeech" / "train-clean-100" / speaker / "9"
        chapter.mkdir(parents=True)
        names = [f"{speaker}-9-000{take}" for take in range(3)]
        for seed, name in enumerate(names):
            (chapter / f"{name}.flac").write_bytes(flac(seed=seed))
        (chapter / f"{speaker}-9.trans.txt").write_text(
            "".join(f"{name} ONE TWO\n" for name in names)
        )
    return tmp_path / "LibriSpeech"


@pytest.fixture
def long_flac():
    return flac(seconds=1.5)


@pytest.fixture
def shared():
    return real_data
