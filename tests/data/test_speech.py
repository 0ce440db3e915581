"""Speech from folders and tables, its decoding, its features and labels, and batches of them."""

import json
import logging
import pickle

import datasets
import numpy as np
import pytest
import soundfile
import torch
from datasets import Audio
from transformers import (
    HfArgumentParser,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    WhisperConfig,
    WhisperForConditionalGeneration,
    WhisperProcessor,
)

from hf_unlearn.data import SpeechArguments, SpeechCollator, decode_audio, load_speech, prepare

FOLDER = {"speaker_column": "speaker"}


def decoded(path=None, content=None):
    return decode_audio({"path": path and str(path), "bytes": content})


class TestSources:
    def test_folder_with_split_column(self, folder):
        train = load_speech(folder, split="train", **FOLDER)
        test = load_speech(str(folder), split="test", **FOLDER)
        assert list(train["id"]) == ["007/1.flac", "007/2.flac", "008/1.flac", "008/2.flac"]
        assert list(test["id"]) == ["007/0.flac", "008/0.flac"]
        # not read as null and 7
        assert set(train["text"]) == {"null"} and set(train["speaker"]) == {"007", "008"}
        assert decode_audio(train[0]["audio"]).shape == (3200,)

    def test_folder_with_a_metadata_file_per_split(self, folder):
        lines = (folder / "metadata.csv").read_text().splitlines()
        (folder / "metadata.csv").unlink()
        for speaker in ("007", "008"):
            own = [
                line.removeprefix(f"{speaker}/")
                for line in lines
                if line.startswith(("file_name", speaker))
            ]
            (folder / speaker / "metadata.csv").write_text("\n".join(own))
        rows = load_speech(folder, split="008", **FOLDER)
        assert list(rows["id"]) == ["0.flac", "1.flac", "2.flac"]

    @pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv"])
    def test_table_of_paths(self, folder, suffix):
        table = datasets.Dataset.from_list(
            [{"audio": f"{name}/0.flac", "text": "one", "who": name} for name in ("007", "008")]
        )
        writers = {".jsonl": table.to_json, ".parquet": table.to_parquet, ".csv": table.to_csv}
        writers[suffix](folder / f"table{suffix}")
        rows = load_speech(
            folder / f"table{suffix}", split="train", speaker_column="who", speakers=["008"]
        )
        assert list(rows["speaker"]) == ["008"]
        assert decode_audio(rows[0]["audio"]).shape == (3200,)

    def test_common_voice(self, tmp_path, make_rows):
        (tmp_path / "clips").mkdir()
        waveform = np.full(24_000, 0.1, "float32")
        soundfile.write(tmp_path / "clips" / "cv_1.mp3", waveform, 48_000, format="MP3")
        (tmp_path / "train.tsv").write_text('client_id\tpath\tsentence\nabc\tcv_1.mp3\tSay "one.\n')
        names = {"audio_column": "path", "text_column": "sentence", "speaker_column": "client_id"}
        rows = load_speech(tmp_path, split="train", **names)
        row = {name: rows[0][name] for name in ("id", "speaker", "text")}
        assert row == {"id": "clips/cv_1.mp3", "speaker": "abc", "text": 'Say "one.'}
        assert decode_audio(rows[0]["audio"]).shape == (8000,)

    def test_parquet_with_embedded_audio(self, tmp_path, make_rows):
        rows = (
            make_rows()
            .cast_column("audio", Audio(sampling_rate=16_000))
            .rename_column("audio", "sound")
        )
        (tmp_path / "data").mkdir()
        rows.to_parquet(tmp_path / "data" / "train-00000-of-00001.parquet")
        rows = load_speech(tmp_path, split="train", audio_column="sound", **FOLDER)
        assert len(rows) == 12 and decode_audio(rows[3]["audio"]).shape == (3200,)

    def test_bound_takes_the_first_by_id(self, folder):
        rows = load_speech(folder, split="train", max_utterances_per_speaker=1, **FOLDER)
        assert list(rows["id"]) == ["007/1.flac", "008/1.flac"]

    def test_refusals(self, folder, tmp_path):
        with pytest.raises(ValueError, match="no file or folder /no/such"):
            load_speech("/no/such", split="train")
        with pytest.raises(
            ValueError, match="no split 'train.100' in .*metadata.csv; it holds test, train"
        ):
            load_speech(folder, split="train.100", **FOLDER)
        with pytest.raises(
            ValueError,
            match="no speaker column 'speaker_id' \\(speaker_column\\) .*; its columns are audio,",
        ):
            load_speech(folder, split="train")
        with pytest.raises(
            ValueError,
            match="unknown speaker '7' in .*, which has 2 speakers: did you mean '007' or '008'",
        ):
            load_speech(folder, split="train", speakers=[7], **FOLDER)
        with pytest.raises(
            ValueError, match="audio column 'text' of .* holds .*, not audio files or their paths"
        ):
            table = datasets.Dataset.from_dict({"text": [1], "speaker": ["a"]})
            table.to_parquet(tmp_path / "x.parquet")
            load_speech(tmp_path / "x.parquet", split="train", audio_column="text", **FOLDER)
        with pytest.raises(
            ValueError, match="max_utterances_per_speaker is 0: give a positive number"
        ):
            load_speech(folder, split="train", max_utterances_per_speaker=0, **FOLDER)
        with pytest.raises(
            ValueError, match=r"0.flac is not a table of audio files: give one that ends in .csv, "
        ):
            load_speech(folder / "007" / "0.flac", split="train")
        with pytest.raises(
            ValueError,
            match="1 utterance ids of .* are not unique, among them 'train': name another",
        ):
            load_speech(folder, split="train", id_column="split", **FOLDER)

    def test_rows_without_audio(self, tmp_path):
        lines = [
            {"audio": "a.flac", "text": "one", "speaker": "a"},
            {"audio": None, "text": "two", "speaker": "b"},
        ]
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
        with pytest.raises(
            ValueError, match="1 of 2 rows of .*rows.jsonl have no audio in column 'audio'"
        ):
            load_speech(tmp_path / "rows.jsonl", split="train", **FOLDER)

    def test_folder_of_sound_only(self, folder):
        (folder / "metadata.csv").unlink()
        with pytest.raises(
            ValueError, match="without torchcodec: install it, .* or write a metadata.csv"
        ):
            load_speech(folder, split="train", **FOLDER)

    def test_real_folder(self, shared):
        options = {"speaker_column": "speaker", "speakers": ["theo"]}
        train = load_speech(shared("fsdd"), split="train", **options)
        test = load_speech(shared("fsdd"), split="test", **options)
        assert (len(train), len(test)) == (450, 50)
        assert set(train["text"]) == set(
            "zero one two three four five six seven eight nine".split()
        )
        assert 0.1 < len(decode_audio(train[0]["audio"])) / 16_000 < 3


class TestDecode:
    def test_mixes_and_resamples(self, tmp_path):
        time = np.arange(8000) / 8000
        tone = np.sin(2 * np.pi * 440 * time).astype("float32")
        soundfile.write(
            tmp_path / "a.wav", np.stack([tone, np.zeros_like(tone)], axis=1), 8000, subtype="FLOAT"
        )
        waveform = decoded(tmp_path / "a.wav")
        expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
        assert waveform.dtype == np.float32 and waveform.shape == (16_000,)
        np.testing.assert_allclose(waveform[200:-200], expected[200:-200], atol=2e-3)

    def test_refusals(self, tmp_path):
        (tmp_path / "broken.flac").write_bytes(b"no flac at all")
        with pytest.raises(
            ValueError, match="cannot decode the audio of .*broken.flac: Format not recognised"
        ):
            decoded(tmp_path / "broken.flac")
        with pytest.raises(ValueError, match="cannot open the audio of .*gone.flac: No such file"):
            decoded(tmp_path / "gone.flac")
        soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16_000)
        with pytest.raises(ValueError, match="the audio of .*empty.wav is empty"):
            decoded(tmp_path / "empty.wav")
        soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan]), 16_000, subtype="FLOAT")
        with pytest.raises(ValueError, match="the audio of .*nan.wav has samples that are NaN"):
            decoded(tmp_path / "nan.wav")
        with pytest.raises(ValueError, match="cannot decode the audio of embedded bytes"):
            decoded(content=b"nothing")
        with pytest.raises(ValueError, match="neither bytes nor a path"):
            decoded()


class TestPrepare:
    def test_rows(self, make_rows, processor):
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

    def test_is_cached(self, make_rows, processor, monkeypatch):
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

    def test_processes_agree(self, make_rows, processor):
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
    def test_bad_audio(self, make_rows, processor, caplog, bad, complaint, num_proc, long_flac):
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
            match="features of test: all 1 utterances have broken, empty or too long audio",
        ):
            prepare(
                rows.select([1]), processor, skip_bad_audio=True, **options | {"num_proc": None}
            )

    def test_refusals(self, make_rows, processor):
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
            ValueError, match="made with a WhisperFeatureExtractor, not with NoneType"
        ):
            prepare(make_rows(), processor, max_label_length=8)

    def test_real_tokenizer(self, make_rows, shared):
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


class TestCollator:
    def test_pads_and_strips(self, processor):
        features = np.arange(8, dtype="float32").reshape(2, 4)
        rows = [
            {"input_features": features, "labels": labels, "id": "a"}
            for labels in ([1, 4, 2], [1, 4, 5, 2])
        ]
        batch = SpeechCollator(processor, 1)(rows)
        assert sorted(batch) == ["input_features", "labels"]
        assert batch["input_features"].shape == (2, 2, 4)
        assert batch["input_features"].dtype == torch.float32
        assert batch["labels"].tolist() == [[4, 2, -100], [4, 5, 2]]
        assert SpeechCollator(processor, 9)(rows)["labels"].tolist() == [
            [1, 4, 2, -100],
            [1, 4, 5, 2],
        ]
        rows[0]["labels"] = [4, 2]
        assert SpeechCollator(processor, 1)(rows)["labels"].tolist() == [
            [4, 2, -100, -100],
            [1, 4, 5, 2],
        ]

    def test_takes_decoder_inputs_that_rows_bring(self, processor):
        rows = [
            {"input_features": np.zeros((2, 4)), "labels": ids, "decoder_input_ids": ids}
            for ids in ([4], [4, 5])
        ]
        pad = processor.tokenizer.pad_token_id
        assert SpeechCollator(processor, 1)(rows)["decoder_input_ids"].tolist() == [
            [4, pad],
            [4, 5],
        ]

    @pytest.mark.parametrize("remove_unused_columns", [True, False])
    def test_under_trainer(self, make_rows, processor, tmp_path, remove_unused_columns):
        sizes = dict.fromkeys(["encoder_layers", "decoder_layers", "encoder_attention_heads"], 1)
        sizes |= {"decoder_attention_heads": 1}
        sizes |= dict.fromkeys(["d_model", "encoder_ffn_dim", "decoder_ffn_dim"], 8)
        special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        special |= {"decoder_start_token_id": 1}
        config = WhisperConfig(
            vocab_size=8, num_mel_bins=8, max_source_positions=50, **sizes, **special
        )
        args = Seq2SeqTrainingArguments(
            str(tmp_path),
            max_steps=1,
            use_cpu=True,
            remove_unused_columns=remove_unused_columns,
            report_to="none",
        )
        rows = prepare(make_rows(), processor, max_label_length=8)
        trainer = Seq2SeqTrainer(
            WhisperForConditionalGeneration(config),
            args,
            train_dataset=rows,
            eval_dataset=rows,
            data_collator=SpeechCollator(processor, 1),
        )
        assert trainer.train().global_step == 1
        assert np.isfinite(trainer.evaluate()["eval_loss"])


class TestArguments:
    def test_command_line_and_yaml(self, tmp_path):
        parser = HfArgumentParser(SpeechArguments)
        line = "--forget_speakers 374 1034 --retain_size 0.5 --num_proc 2 --skip_bad_audio true"
        (args,) = parser.parse_args_into_dataclasses(line.split())
        assert args.forget_speakers == ["374", "1034"] and args.retain_speakers == []
        assert args.retain_size == 0.5 and args.max_eval_samples is None
        assert args.num_proc == 2 and args.skip_bad_audio
        options = {"forget_speakers": 374, "retain_speakers": None}
        (tmp_path / "a.json").write_text(json.dumps(options))
        (args,) = parser.parse_json_file(tmp_path / "a.json")
        assert args.forget_speakers == ["374"] and args.retain_speakers == []
