"""Features that are computed when a row is read are those that would be stored."""

from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
import torch
from datasets import Audio, concatenate_datasets
from torch.utils.data import DataLoader
from transformers import Wav2Vec2FeatureExtractor

from hf_unlearn.data import SpeechCollator, load_speech, prepare
from hf_unlearn.data.speech import on_demand
from hf_unlearn.data.speech.audio import audio_seconds, decode_audio
from hf_unlearn.experiments.models.training import rows_digest
from tests.data.conftest import flac

LABELS = {"max_label_length": 8}


@pytest.fixture(autouse=True)
def nothing_is_kept(monkeypatch):
    monkeypatch.setattr(on_demand, "_inputs", on_demand.InputCache(limit=0))


def replaced(rows, place: int, content: bytes):
    """The rows with other audio in one place."""
    audio = list(rows["audio"])
    audio[place] = {"bytes": content, "path": f"{rows[place]['id']}.flac"}
    rows = rows.remove_columns("audio").add_column("audio", audio)
    return rows.cast_column("audio", Audio(decode=False))


def test_rows_are_those_that_would_be_stored(make_rows, processor):
    stored = prepare(make_rows(), processor, **LABELS)
    made = prepare(make_rows(), processor, store=None, **LABELS)
    assert made["labels"][:] == stored["labels"][:]
    for one, other in zip(made, stored, strict=True):
        assert one.keys() == other.keys()
        features = one.pop("input_features")
        assert features.dtype == np.float32
        np.testing.assert_array_equal(features, other.pop("input_features"))
        assert one == other


def test_no_audio_is_decoded_before_a_row_is_read(make_rows, processor, monkeypatch):
    decode = on_demand.decode_chunk
    monkeypatch.setattr(on_demand, "decode_chunk", None)
    rows = prepare(make_rows(), processor, store=None, **LABELS)
    # selecting, joining and reading other columns, too
    rows = concatenate_datasets([rows.select([3, 1]), rows.select([2])])
    assert rows["id"][:] == ["a-3", "a-1", "a-2"] and rows["duration"][0] == pytest.approx(0.2)
    named = rows_digest(rows)
    monkeypatch.setattr(on_demand, "decode_chunk", decode)
    assert rows[1]["input_features"].shape == (8, 100)
    other = prepare(make_rows("a", prefix="x"), processor, store=None, **LABELS)
    assert named != rows_digest(other.select([3, 1, 2]))


def test_inputs_of_a_small_set_stay_in_memory(make_rows, folder, processor, monkeypatch):
    recent = on_demand.InputCache(limit=3 * 8 * 100 * 4)
    monkeypatch.setattr(on_demand, "_inputs", recent)
    rows = prepare(make_rows(), processor, store=None, **LABELS)
    first = rows[0]["input_features"]
    expected = first.copy()
    first += 1
    decode = on_demand.decode_chunk
    monkeypatch.setattr(on_demand, "decode_chunk", None)
    np.testing.assert_array_equal(rows[0]["input_features"], expected)
    monkeypatch.setattr(on_demand, "decode_chunk", decode)
    for place in (1, 2, 0, 3):
        assert rows[place]["input_features"].shape == (8, 100)
    monkeypatch.setattr(on_demand, "decode_chunk", None)
    assert recent.size == recent.limit and [rows[n]["id"] for n in (0, 2, 3)]
    # the one that was not read for the longest time
    with pytest.raises(TypeError):
        rows[1]
    monkeypatch.setattr(on_demand, "decode_chunk", decode)
    (path,) = (folder / "007").glob("0.flac")
    loaded = load_speech(folder, split="test", speaker_column="speaker")
    rows = prepare(loaded, processor, store=None, **LABELS)
    before = rows[0]["input_features"]
    path.write_bytes((folder / "007" / "2.flac").read_bytes())
    assert not np.array_equal(rows[0]["input_features"], before)


def test_parts_that_were_prepared_apart_are_joined(make_rows, processor):
    parts = [prepare(make_rows(name, 2), processor, store=None, **LABELS) for name in ("a", "b")]
    joined = concatenate_datasets(parts)
    for place in range(4):
        np.testing.assert_array_equal(
            joined[place]["input_features"], parts[place // 2][place % 2]["input_features"]
        )


def test_workers_of_a_data_loader_compute_features(make_rows, processor):
    rows = prepare(make_rows(), processor, store=None, **LABELS)
    options = {"batch_size": 4, "collate_fn": SpeechCollator(processor, 1)}
    one, other = (
        [batch["input_features"] for batch in DataLoader(rows, num_workers=workers, **options)]
        for workers in (0, 2)
    )
    assert torch.equal(torch.cat(one), torch.cat(other)) and len(one) == 3


def test_bad_audio_is_found_in_headers(make_rows, processor, long_flac):
    rows = make_rows()
    for content, complaint in (
        (b"no flac", "utterance a-1: cannot decode the audio of a-1.flac"),
        (long_flac, "utterance a-1: the audio of a-1.flac is 1.5 s long, over the 1 s"),
    ):
        bad = replaced(rows, 1, content)
        with pytest.raises(ValueError, match=f"{complaint}.*skip_bad_audio"):
            prepare(bad, processor, store=None, **LABELS)
        kept = prepare(bad, processor, store=None, skip_bad_audio=True, **LABELS)
        assert len(kept) == 11 and kept[1]["id"] == "a-2"


def test_what_is_wrong_behind_a_header_is_named_when_the_row_is_read(make_rows, processor):
    whole = make_rows()[1]["audio"]["bytes"]
    bad = replaced(make_rows(), 1, whole[: len(whole) // 2] + bytes(len(whole) // 2))
    with pytest.raises(
        ValueError, match="the audio of a-1.flac.*; remove it, or pass skip_bad_audio"
    ):
        prepare(bad, processor, store=None, **LABELS)[1]
    # All audio is decoded where bad audio is to be left out.
    kept = prepare(bad, processor, store=None, skip_bad_audio=True, **LABELS)
    assert "a-1" not in kept["id"][:] and len(kept) == 11


def test_a_bad_transcript_is_named(make_rows, processor):
    rows = make_rows(text="one two three four one two three")
    with pytest.raises(ValueError, match="utterance a-0 has 9 label tokens, over the 8"):
        prepare(rows, processor, store=None, **LABELS)


def test_labels_that_do_not_fit_the_frames_of_ctc(make_rows, processor):
    processor.feature_extractor = Wav2Vec2FeatureExtractor()
    for frames, count in ((4, 12), (3, 0)):
        options = {"frames_of": lambda length, n=frames: n * length // 3200, "store": None}
        if count:
            rows = prepare(make_rows(), processor, **options)
            assert len(rows) == count and rows[0]["input_values"].shape == (3200,)
        else:
            with pytest.raises(ValueError, match="utterance a-0 has labels that need 4 frames"):
                prepare(make_rows(), processor, **options)


def test_a_batch_masks_waveforms_as_if_masks_were_stored(make_rows, processor):
    processor.feature_extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    rows = make_rows("ab", 1)
    rows = replaced(rows, 1, flac(seconds=0.1))
    stored, made = (
        SpeechCollator(processor)(list(prepare(rows, processor, store=store)))
        for store in ("float32", None)
    )
    assert made.keys() == stored.keys() and made["attention_mask"].sum() == 3200 + 1600
    assert all(torch.equal(made[name], stored[name]) for name in stored)


def test_the_cache_sees_other_files_and_other_labels(folder, processor):
    def rows(**options):
        loaded = load_speech(folder, split="test", speaker_column="speaker")
        return prepare(loaded, processor, store=None, **LABELS, **options)

    assert rows()._fingerprint == rows()._fingerprint
    assert rows(label_texts=["four", "four"])[0]["labels"] == [1, 7, 2]
    (folder / "007" / "0.flac").write_bytes(b"broken")
    with pytest.raises(ValueError, match="cannot decode"):
        rows()


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100])
def test_durations_of_headers_are_those_of_the_audio(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", np.zeros(1234), rate)
    audio = {"path": str(tmp_path / "a.wav"), "bytes": None}
    assert audio_seconds(audio, 16_000) == len(decode_audio(audio)) / 16_000


def test_features_are_stored_in_half_precision(make_rows, processor, cache):
    exact = prepare(make_rows(), processor, **LABELS)
    half = prepare(make_rows(), processor, store="float16", **LABELS)
    assert isinstance(half, datasets.Dataset) and half[3]["input_features"].dtype == np.float32
    difference = abs(half[3]["input_features"] - exact[3]["input_features"]).max()
    assert 0 < difference < 1e-3
    exact_size, half_size = (
        sum(Path(file["filename"]).stat().st_size for file in rows.cache_files)
        for rows in (exact, half)
    )
    assert half_size < 0.7 * exact_size
    with pytest.raises(ValueError, match="store is 'int8'"):
        prepare(make_rows(), processor, store="int8", **LABELS)
