"""Speech with classes: folders of labels, splits, and what is refused."""

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from datasets import ClassLabel, Dataset
from transformers import WhisperFeatureExtractor

from hf_unlearn.data.earlier import EarlierRequest
from hf_unlearn.data.speech.classes import (
    classes_of,
    load_class_splits,
    load_utterances,
    prepare_class_splits,
)
from hf_unlearn.data.speech.speech_arguments import SpeechClassArguments

WORDS, SPEAKERS = ["yes", "no", "up"], ["anna", "boris", "clara"]


def write_noise(path: Path, seconds: float = 0.2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(str(path).encode())
    noise = 0.1 * np.random.default_rng(seed).normal(size=int(seconds * 16_000))
    soundfile.write(path, noise, 16_000)
    return path


@pytest.fixture
def commands(tmp_path) -> Path:
    """Files as in Speech Commands: <label>/<speaker>_nohash_<number>.wav, with lists of splits."""
    root = tmp_path / "commands"
    for word in WORDS:
        for speaker in SPEAKERS:
            for number in range(4):
                write_noise(root / word / f"{speaker}_nohash_{number}.wav")
    write_noise(root / "_background_noise_" / "rain.wav")
    for name, number in (("testing_list", 0), ("validation_list", 1)):
        lines = [f"{word}/{who}_nohash_{number}.wav" for word in WORDS for who in SPEAKERS]
        (root / f"{name}.txt").write_text("\n".join(lines))
    return root


@pytest.fixture
def table(commands) -> Path:
    """The same files in a table, without lists."""
    paths = sorted(path for word in WORDS for path in (commands / word).glob("*.wav"))
    lines = ["file,word,who,part"]
    for path in paths:
        speaker, _, number = path.stem.partition("_nohash_")
        lines.append(f"{path},{path.parent.name},{speaker},{number}")
    target = commands.parent / "table.csv"
    target.write_text("\n".join(lines))
    return target


def arguments(source: Path, **options) -> SpeechClassArguments:
    columns = {"audio_column": "file", "label_column": "word", "speaker_column": "who"}
    source_columns = columns if source.is_file() else {}
    defaults = {"train_split": "train", "retain_size": 4, "held_out": 0.25}
    return SpeechClassArguments(**{"dataset": str(source), **source_columns, **defaults, **options})


def test_a_folder_for_each_label_is_read_with_its_lists_and_speakers(commands):
    args = arguments(commands)
    rows = {split: load_utterances(args, split, needs_speakers=True) for split in ("train", "test")}
    assert Counter(rows["train"]["class"]) == dict.fromkeys(WORDS, 6)
    assert {Path(name).stem[-1] for name in rows["train"]["id"]} == {"2", "3"}
    assert {Path(name).stem[-1] for name in rows["test"]["id"]} == {"0"}
    assert Counter(rows["test"]["speaker"]) == dict.fromkeys(SPEAKERS, 3)
    with pytest.raises(ValueError, match="no split 'dev' in .*; it holds train, .*validation"):
        load_utterances(args, "dev", needs_speakers=True)


def test_a_folder_of_splits_may_have_no_speakers(tmp_path):
    for split in ("train", "test"):
        for word in WORDS:
            for number in range(3):
                write_noise(tmp_path / split / word / f"{number}.wav")
    args = arguments(tmp_path, test_split="test", forget_classes=["up"])
    splits, classes = load_class_splits(args, seed=0)
    assert classes == ["no", "up", "yes"]
    assert set(splits.forget["class"]) == {"up"} == set(splits.forget_test["class"])
    assert set(splits.test["class"]) == {"yes", "no"} and len(splits.retain_pool) == 6
    with pytest.raises(ValueError, match="9 of 9 files .* do not name their speaker.*no/0.wav"):
        load_class_splits(arguments(tmp_path, forget_speakers=["anna"]), seed=0)


def test_a_speaker_is_forgotten_over_all_classes(table):
    splits, classes = load_class_splits(arguments(table, forget_speakers=["anna"]), seed=0)
    assert classes == sorted(WORDS)
    assert set(splits.forget["speaker"]) == {"anna"} and len(splits.forget) == 9
    assert len(splits.forget_test) == 3 and len(splits.test) == 6
    assert "anna" not in splits.retain_pool["speaker"][:]
    assert splits.describe()["speakers"]["forget"] == ["anna"]


def test_speakers_are_drawn_until_a_share_of_the_training_data_is_theirs(table):
    chosen = {}
    for seed in range(8):
        args = arguments(table, forget_share=0.3, forget_share_min=11)
        splits, _ = load_class_splits(args, seed=seed)
        (chosen[seed],) = set(splits.forget["speaker"])
    assert set(chosen.values()) == set(SPEAKERS)
    args = arguments(table, forget_share=0.4, forget_share_min=11)
    assert len(set(load_class_splits(args, seed=0)[0].forget["speaker"])) == 2


def test_speakers_can_be_the_classes(table):
    args = arguments(table, label_column="who", forget_speakers=["anna"])
    splits, classes = load_class_splits(args, seed=0)
    assert classes == SPEAKERS and splits.forget["class"][:] == ["anna"] * 9


def test_single_utterances_are_forgotten(table):
    splits, _ = load_class_splits(arguments(table, forget_samples=5, held_out=0.5), seed=0)
    assert len(splits.forget) == 5 and not len(splits.forget_test)
    assert not set(splits.forget["id"]) & set(splits.retain_pool["id"])
    assert splits.describe()["utterances"]["test"] == len(splits.test) == 18


def test_a_column_of_class_labels_gives_its_names_and_numbers_sort_as_numbers(tmp_path, table):
    rows = Dataset.from_csv(str(table)).cast_column("word", ClassLabel(names=WORDS))
    rows.to_parquet(tmp_path / "table.parquet")
    args = arguments(tmp_path / "table.parquet")
    assert classes_of(load_utterances(args, "train", needs_speakers=False)) == sorted(WORDS)
    assert classes_of(Dataset.from_dict({"class": ["10", "9", "1"]})) == ["1", "9", "10"]
    assert classes_of(Dataset.from_dict({"class": ["10", "9", "a"]})) == ["10", "9", "a"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"forget_speakers": ["ana"]}, "unknown speaker 'ana' in .*: 'anna'"),
        ({"forget_classes": ["yess"]}, "unknown class 'yess' in .*'yes'"),
        ({}, "nothing to forget: name forget_speakers or forget_classes"),
        (
            {"forget_share": 0.5},
            "the 0 speakers with more than 100 training utterances have 0 of 36",
        ),
        (
            {"forget_share": 2, "forget_share_min": 1},
            r"forget_share is 2: give a share in \(0, 1\)",
        ),
        (
            {"forget_speakers": ["anna"], "forget_classes": ["yes"]},
            "forget_speakers already says what is forgotten: leave out forget_classes",
        ),
        ({"forget_classes": ["yes"], "other_split": "train"}, "other_split is for speakers"),
        (
            {"forget_classes": ["anna"], "label_column": "who"},
            "the classes are the speakers: name them in forget_speakers",
        ),
        (
            {"forget_classes": ["yes"], "label_column": "intent"},
            r"no label column 'intent' \(label_column\) in .*; its columns are file, word, who",
        ),
        (
            {"forget_speakers": ["anna"], "speaker_column": "id"},
            r"no speaker column 'id' \(speaker_column\)",
        ),
    ],
)
def test_a_wrong_request_is_refused(table, options, message):
    with pytest.raises(ValueError, match=message):
        load_class_splits(arguments(table, **options), seed=0)


def test_missing_labels_and_classes_that_were_never_trained_are_refused(table):
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines, lines[1].replace(",no,", ",,").replace("_0", "_9")]))
    for options in ({"forget_classes": ["yes"]}, {"forget_speakers": ["anna"]}):
        with pytest.raises(ValueError, match="1 of 37 .* have no label in column 'word'"):
            load_class_splits(arguments(table, **options), seed=0)
    split = [f"{line},{'test' if ',up,' in line else 'train'}" for line in lines[1:]]
    table.write_text("\n".join([f"{lines[0]},split", *split]))
    args = arguments(table, forget_speakers=["anna"], test_split="test")
    with pytest.raises(ValueError, match="unknown class 'up' in the training split .*test_split"):
        load_class_splits(args, seed=0)


def test_classes_without_an_utterance_of_the_forgotten_speaker_are_named(table, caplog):
    lines = table.read_text().splitlines()
    kept = [line for line in lines if ",up,anna" not in line]
    kept = [line for line in kept if ",no," not in line or "anna" in line]
    table.write_text("\n".join(kept))
    with caplog.at_level(logging.WARNING):
        load_class_splits(arguments(table, forget_speakers=["anna"]), seed=0)
    assert "The forgotten speakers have no training utterance in some classes (1)" in caplog.text
    assert "nothing is forgotten there: up" in caplog.text
    assert "cannot know them: no" in caplog.text


def test_inputs_have_the_places_of_classes_as_labels_and_long_audio_is_cut(commands):
    write_noise(commands / "up" / "anna_nohash_3.wav", seconds=1.5)
    args = arguments(commands, forget_classes=["up"], max_eval_samples=3)
    splits, classes = load_class_splits(args, seed=0)
    extractor = WhisperFeatureExtractor(feature_size=8, chunk_length=1)
    with pytest.raises(ValueError, match="anna_nohash_3.wav is 1.5 s long, over the 1 s"):
        prepare_class_splits(splits, extractor, args, classes)
    args.max_seconds = 1.0
    prepared = prepare_class_splits(splits, extractor, args, classes)
    assert set(prepared.forget["labels"][:]) == {classes.index("up")}
    assert max(prepared.forget["duration"][:]) == 1.0 and len(prepared.test) == 3
    assert prepared.retain[0]["input_features"].shape == (8, 100)


def test_a_speaker_of_an_earlier_request_is_not_retained_when_a_class_is_forgotten(commands):
    earlier = [
        EarlierRequest(1, "speaker", "anna".__eq__),
        EarlierRequest(2, "class", "no".__eq__),
        EarlierRequest.of_names("speaker", ["clara"]),
    ]
    args = arguments(commands, forget_classes=["yes"], retain_size=1)
    splits, classes = load_class_splits(args, 0, earlier)
    assert classes == sorted(WORDS)
    assert {name: set(rows["speaker"][:]) for name, rows in splits.parts().items()} == {
        **{name: {"boris"} for name in ("forget", "forget_test", "retain", "retain_pool", "test")},
        "earlier_1": {"anna"},
        "earlier_2": {"boris"},
    }
    assert set(splits.earlier["earlier_2"]["class"][:]) == {"no"}
    assert set(splits.evaluation(2)) > {"earlier_1", "earlier_2"}
