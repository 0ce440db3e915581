"""Prepared utterances are what the model's own processor makes of the audio."""

import logging
import pickle

import numpy as np
import pytest
import soundfile
from datasets import Audio
from transformers import (
    WhisperProcessor,
)

from hf_unlearn.data import SpeechCollator, decode_audio, load_speech, prepare

FOLDER = {"speaker_column": "speaker"}


def decoded(path=None, content=None):
    return decode_audio({"path": path and str(path), "bytes": content})


class TestDecode:
    def test_channels_are_mixed_and_resampled(self, tmp_path):
        time = np.arange(8000) / 8000
        tone = np.sin(2 * np.pi * 440 * time).astype("float32")
        soundfile.write(
            tmp_path / "a.wav", np.stack([tone, np.zeros_like(tone)], axis=1), 8000, subtype="FLOAT"
        )
        waveform = decoded(tmp_path / "a.wav")
        expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
        assert waveform.dtype == np.float32 and waveform.shape == (16_000,)
        np.testing.assert_allclose(waveform[200:-200], expected[200:-200], atol=2e-3)

    def test_audio_that_cannot_be_decoded_is_refused(self, tmp_path):
        (tmp_path / "broken.flac").write_bytes(b"no flac at all")
        with pytest.raises(
            ValueError, match="cannot decode the audio of .*broken.flac: Format not recognised"
        ):
            decoded(tmp_path / "broken.flac")
        with pytest.raises(ValueError, match="cannot open the audio of .*gone.flac: No such file"):
            decoded(tmp_path / "gone.flac")
        soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16_000)
        (tmp_path / "nothing.flac").touch()
        for empty in ("empty.wav", "nothing.flac"):
            with pytest.raises(ValueError, match=f"the audio of .*{empty} is empty"):
                decoded(tmp_path / empty)
        soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan]), 16_000, subtype="FLOAT")
        with pytest.raises(ValueError, match="the audio of .*nan.wav has samples that are NaN"):
            decoded(tmp_path / "nan.wav")
        with pytest.raises(ValueError, match="cannot decode the audio of embedded bytes"):
            decoded(content=b"nothing")
        with pytest.raises(ValueError, match="neither bytes nor a path"):
            decoded()


class TestPrepare:
    def test_prepared_rows_hold_inputs_and_labels(self, make_rows, processor):
        rows = prepare(make_rows(), processor, max_label_length=8)
        row = rows[5]
        assert sorted(row) == ["duration", "id", "input_features", "labels", "speaker", "text"]
        assert row["input_features"].dtype == np.float32 and row["input_features"].shape == (8, 100)
        assert (row["labels"], row["id"], row["speaker"], row["text"]) == (
            [1, 4, 5, 2],
            "b-1",
            "b",
            "one two",
        )
        assert row["duration"] == pytest.approx(0.2)
        waveform = decode_audio(make_rows()[5]["audio"])
        expected = processor.feature_extractor(
            waveform, sampling_rate=16_000, return_tensors="np"
        ).input_features[0]
        np.testing.assert_array_equal(row["input_features"], expected)

    def test_features_are_cached_and_made_again_for_other_texts(
        self, make_rows, processor, monkeypatch
    ):
        first = prepare(make_rows(), processor, max_label_length=8)
        processor = pickle.loads(pickle.dumps(processor))
        # The second call would fail if it decoded anything.
        monkeypatch.setattr("hf_unlearn.data.speech.samples.decode_chunk", None)
        second = prepare(make_rows(), processor, max_label_length=9)
        np.testing.assert_array_equal(first[7]["input_features"], second[7]["input_features"])
        with pytest.raises(TypeError):
            prepare(make_rows(text="three"), processor, max_label_length=8)

    def test_cache_sees_a_changed_file(self, folder, processor):
        def features():
            rows = load_speech(folder, split="test", **FOLDER)
            return prepare(rows, processor, max_label_length=8)[0]["input_features"]

        first = features()
        (folder / "007" / "0.flac").write_bytes((folder / "007" / "2.flac").read_bytes())
        assert not np.array_equal(features(), first)

    def test_several_processes_prepare_the_same_samples(self, make_rows, processor):
        rows = prepare(make_rows(), processor, max_label_length=8, num_proc=2, skip_bad_audio=True)
        expected = prepare(make_rows(), processor, max_label_length=8)
        assert list(rows["id"]) == list(expected["id"])
        assert all(
            np.array_equal(a["input_features"], b["input_features"]) for a, b in zip(rows, expected)
        )
        assert all(a["labels"] == b["labels"] for a, b in zip(rows, expected))

    def test_progress_names_what_is_made(self, make_rows, processor, capfd):
        prepare(make_rows(), processor, max_label_length=8, description="features of forget")
        assert "features of forget" in capfd.readouterr().err

    @pytest.mark.parametrize(
        "bad, complaint",
        [
            (b"no flac", "utterance a-1: cannot decode the audio of a-1.flac"),
            (
                "long",
                "utterance a-1: the audio of a-1.flac is 1.5 s long, over the 1 s that the "
                "model takes",
            ),
        ],
    )
    @pytest.mark.parametrize("num_proc", [None, 2])
    def test_audio_that_cannot_be_used_is_named_or_skipped(
        self, make_rows, processor, caplog, bad, complaint, num_proc, long_flac
    ):
        rows = make_rows()
        audio = list(rows["audio"])
        audio[1] = {"bytes": long_flac if bad == "long" else bad, "path": "a-1.flac"}
        rows = (
            rows.remove_columns("audio")
            .add_column("audio", audio)
            .cast_column("audio", Audio(decode=False))
        )
        options = {"max_label_length": 8, "num_proc": num_proc, "description": "features of test"}
        with pytest.raises(ValueError, match=f"{complaint}.*; remove it, or pass skip_bad_audio"):
            prepare(rows, processor, **options)
        # The second time reads the cache.
        for _ in range(2):
            caplog.clear()
            with caplog.at_level(logging.WARNING):
                kept = prepare(rows, processor, skip_bad_audio=True, **options)
            assert "features of test: skipped 1 of 12 utterances" in caplog.text
            assert "a-1" in caplog.text
            assert len(kept) == 11 and kept[1]["id"] == "a-2"
        with pytest.raises(
            ValueError,
            match="features of test: all 1 utterances have broken, empty, silent, too short or",
        ):
            prepare(
                rows.select([1]), processor, skip_bad_audio=True, **options | {"num_proc": None}
            )

    def test_rows_that_do_not_fit_the_model_are_refused(self, make_rows, processor):
        with pytest.raises(
            ValueError, match="utterance a-0 has an empty transcript, ' ': leave it out"
        ):
            prepare(make_rows(text=" "), processor, max_label_length=8)
        with pytest.raises(
            ValueError, match="utterance a-0 has 4 label tokens, over the 3 that the model takes"
        ):
            prepare(make_rows(), processor, max_label_length=3)
        with pytest.raises(
            ValueError,
            match="language and task are prompt tokens of Whisper's tokenizer, and Tokenizers",
        ):
            prepare(make_rows(), processor, max_label_length=8, language="en")
        with pytest.raises(ValueError, match="features of forget: there are no utterances"):
            prepare(
                make_rows().select([]),
                processor,
                max_label_length=8,
                description="features of forget",
            )
        processor.feature_extractor = None
        with pytest.raises(
            ValueError, match="TinyProcessor has no feature extractor for audio, but NoneType"
        ):
            prepare(make_rows(), processor, max_label_length=8)

    def test_labels_of_whispers_own_tokenizer(self, make_rows, shared):
        whisper = WhisperProcessor.from_pretrained(shared("whisper-tiny-no-weights"))
        rows = make_rows("a", 1)
        assert prepare(rows, whisper, max_label_length=448)[0]["labels"][:2] == [50258, 50363]
        english = prepare(rows, whisper, max_label_length=448, language="en", task="transcribe")[0][
            "labels"
        ]
        assert english[:4] == whisper.tokenizer.convert_tokens_to_ids(
            ["<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]
        )
        assert english[-1] == whisper.tokenizer.eos_token_id
        collated = SpeechCollator(whisper, 50258)(
            [{"input_features": np.zeros((80, 3000)), "labels": english}]
        )
        assert collated["labels"][0].tolist() == english[1:]
