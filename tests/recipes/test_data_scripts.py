"""The scripts that write the data of the recipes from what their authors publish."""

import csv
import importlib
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hf_unlearn.data.speech import load_speech
from tests.support.helpers import real_data

fsdd = importlib.import_module("recipes.whisper_librispeech.fsdd")
digits = importlib.import_module("recipes.whisper_librispeech.connected_digits")
speakers = importlib.import_module("recipes.whisper_librispeech.ten_speakers")


def clone(folder: Path, *names: str) -> Path:
    """A clone of FSDD with these recordings."""
    (folder / "recordings").mkdir(parents=True)
    for name in names:
        soundfile.write(folder / "recordings" / name, np.ones(800) / 9, 8000)
    return folder


def test_a_clone_of_the_spoken_digits_becomes_a_folder_that_recipes_read(tmp_path):
    fsdd.write_digits(clone(tmp_path / "clone", "7_theo_0.wav", "7_theo_5.wav"), tmp_path / "data")
    rows = list(csv.reader((tmp_path / "data" / "metadata.csv").open()))
    assert rows == [
        ["file_name", "speaker", "text", "split"],
        ["theo/7_theo_0.flac", "theo", "seven", "test"],
        ["theo/7_theo_5.flac", "theo", "seven", "train"],
    ]
    read = load_speech(tmp_path / "data", split="train", speaker_column="speaker")
    assert read["id"][:] == ["theo/7_theo_5.flac"] and read["text"][:] == ["seven"]
    takes = digits.read_takes(tmp_path / "data")
    assert set(takes) == {("test", "theo"), ("train", "theo")}
    # resampled to 16 kHz
    assert len(takes["train", "theo"][0][1]) == 1600


def test_what_is_no_clone_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no recordings/.*: give a clone of https"):
        fsdd.write_digits(tmp_path, tmp_path / "data")
    with pytest.raises(ValueError, match="theo.wav is not named <digit>_<speaker>_<take>"):
        fsdd.write_digits(clone(tmp_path / "clone", "theo.wav"), tmp_path / "data")
    with pytest.raises(ValueError, match="there is no .*metadata.csv: write it with fsdd.py"):
        digits.read_takes(tmp_path)


def write_chapter(folder: Path, speaker: str, chapter: str) -> None:
    """Twelve utterances, whose audio files are empty."""
    path = folder / "test-other" / speaker / chapter
    path.mkdir(parents=True)
    names = [f"{speaker}-{chapter}-{number:04d}" for number in range(12)]
    for name in names:
        (path / f"{name}.flac").touch()
    lines = "".join(f"{name} GOOD MORNING\n" for name in names)
    (path / f"{speaker}-{chapter}.trans.txt").write_text(lines)


def test_the_excerpt_has_ten_utterances_of_each_of_ten_speakers(tmp_path):
    for speaker, chapter in speakers.CHAPTERS.items():
        write_chapter(tmp_path / "LibriSpeech", speaker, chapter)
    # Another speaker and another chapter of the subset are left out.
    write_chapter(tmp_path / "LibriSpeech", "7", "7")
    write_chapter(tmp_path / "LibriSpeech", "367", "7")
    speakers.copy_excerpt(tmp_path / "LibriSpeech", tmp_path / "data")
    rows = load_speech(tmp_path / "data", split="test-other")
    assert len(rows) == 100 and set(rows["speaker"]) == set(speakers.CHAPTERS)
    assert rows["id"][-1] == "533-1066-0009"
    assert len(list((tmp_path / "data").rglob("*.flac"))) == 100


def test_a_tree_without_the_subset_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has no folder test-other.*give the folder LibriSpeech"):
        speakers.copy_excerpt(tmp_path, tmp_path / "data")


def test_the_real_excerpt_is_what_the_script_lists():
    folder = real_data("LibriSpeech") / "test-other"
    names = {path.stem for path in folder.rglob("*.flac")}
    assert names == {
        f"{speaker}-{chapter}-{number}"
        for speaker, chapter in speakers.CHAPTERS.items()
        for number in speakers.NUMBERS
    }
