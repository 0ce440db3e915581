"""Speech is read from folders, tables and the Hub."""

import json

import datasets
import numpy as np
import pytest
import soundfile
from datasets import Audio
from transformers import (
    HfArgumentParser,
)

from hf_unlearn.data import SpeechArguments, decode_audio, load_speech

FOLDER = {"speaker_column": "speaker"}


def decoded(path=None, content=None):
    return decode_audio({"path": path and str(path), "bytes": content})


class TestSources:
    def test_a_folder_is_split_by_a_column_of_its_table(self, folder):
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
            table = [
                line.removeprefix(f"{speaker}/")
                for line in lines
                if line.startswith(("file_name", speaker))
            ]
            (folder / speaker / "metadata.csv").write_text("\n".join(table))
        rows = load_speech(folder, split="008", **FOLDER)
        assert list(rows["id"]) == ["0.flac", "1.flac", "2.flac"]

    @pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv"])
    def test_a_table_of_paths_is_read(self, folder, suffix):
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

    def test_a_folder_of_common_voice_is_read(self, tmp_path, make_rows):
        (tmp_path / "clips").mkdir()
        waveform = np.full(24_000, 0.1, "float32")
        soundfile.write(tmp_path / "clips" / "cv_1.mp3", waveform, 48_000, format="MP3")
        (tmp_path / "train.tsv").write_text('client_id\tpath\tsentence\nabc\tcv_1.mp3\tSay "one.\n')
        names = {"audio_column": "path", "text_column": "sentence", "speaker_column": "client_id"}
        rows = load_speech(tmp_path, split="train", **names)
        row = {name: rows[0][name] for name in ("id", "speaker", "text")}
        assert row == {"id": "clips/cv_1.mp3", "speaker": "abc", "text": 'Say "one.'}
        assert decode_audio(rows[0]["audio"]).shape == (8000,)

    def test_parquet_with_embedded_audio_is_read(self, tmp_path, make_rows):
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

    def test_sources_that_cannot_be_loaded_are_refused(self, folder, tmp_path):
        with pytest.raises(ValueError, match="no file or folder path/to/speech in the working dir"):
            load_speech("path/to/speech", split="train")
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
            match="unknown speaker '7' in .*, which has 2 speakers: '007', '008'",
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

    def test_rows_without_audio_are_counted_and_refused(self, tmp_path):
        lines = [
            {"audio": "a.flac", "text": "one", "speaker": "a"},
            {"audio": None, "text": "two", "speaker": "b"},
        ]
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
        with pytest.raises(
            ValueError, match="1 of 2 rows of .*rows.jsonl have no audio in column 'audio'"
        ):
            load_speech(tmp_path / "rows.jsonl", split="train", **FOLDER)

    def test_a_folder_of_sound_alone_needs_torchcodec_or_a_table(self, folder):
        (folder / "metadata.csv").unlink()
        with pytest.raises(
            ValueError, match="without torchcodec: install it, .* or write a metadata.csv"
        ):
            load_speech(folder, split="train", **FOLDER)

    def test_recorded_digits_are_read(self, shared):
        options = {"speaker_column": "speaker", "speakers": ["theo"]}
        train = load_speech(shared("fsdd"), split="train", **options)
        test = load_speech(shared("fsdd"), split="test", **options)
        assert (len(train), len(test)) == (450, 50)
        assert set(train["text"]) == set(
            "zero one two three four five six seven eight nine".split()
        )
        assert 0.1 < len(decode_audio(train[0]["audio"])) / 16_000 < 3


class TestArguments:
    def test_options_are_the_same_on_a_command_line_and_in_a_file(self, tmp_path):
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
