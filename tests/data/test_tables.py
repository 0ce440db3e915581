"""Tables are read as they are written, and files in all their forms."""

import json

import datasets
import PIL.Image
import pytest
from datasets import Dataset

from hf_unlearn.data import decode_audio, load_speech
from hf_unlearn.data.images import load_images
from hf_unlearn.data.images.samples import decode_image
from hf_unlearn.data.streams import fetch_file
from hf_unlearn.data.tables import read_table

WORDS = [*"0010 10 1.0 NA null None nan True 2024-01-01 1e5 no 12:30 Zoë".split(), ""]
SPEECH = {"split": "train", "speaker_column": "speaker"}
HEADER = b"file_name,speaker,text\n"


@pytest.fixture
def sounds(tmp_path, long_flac):
    """A folder with a.flac, b.flac, ..."""
    for name in "abcd":
        (tmp_path / f"{name}.flac").write_bytes(long_flac)
    return tmp_path


@pytest.fixture
def pictures(tmp_path):
    for number, name in enumerate("abcd"):
        PIL.Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / f"{name}.png")
    return tmp_path


def written(suffix: str, rows: list[dict]) -> str:
    if suffix.startswith(".json"):
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        return "\n".join(lines) if suffix == ".jsonl" else f"[{', '.join(lines)}]"
    join = {".csv": ",", ".tsv": "\t"}[suffix].join
    return "\r\n".join([join(rows[0]), *(join(row.values()) for row in rows)]) + "\r\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".json", ".jsonl"])
def test_names_are_what_is_written(tmp_path, suffix, encoding):
    rows = [{"speaker": word, "file_name": f"{row}.flac"} for row, word in enumerate(WORDS)]
    (tmp_path / f"t{suffix}").write_bytes(written(suffix, rows).encode(encoding))
    table = read_table(tmp_path / f"t{suffix}", "audio")
    assert table["speaker"][:] == WORDS and table["audio"][:2] == ["0.flac", "1.flac"]


def test_numbers_of_json_keep_their_digits(tmp_path):
    (tmp_path / "t.jsonl").write_text(
        '{"a": 1.10, "b": true, "c": null, "d": [1, "x"]}\n\n{"a": 12345678901234567890}\n'
    )
    table = read_table(tmp_path / "t.jsonl", "audio")
    assert table["a"][:] == ["1.10", "12345678901234567890"] and table["b"][:] == ["true", None]
    assert table["d"][0] == '["1", "x"]'
    (tmp_path / "t.json").write_text('{"a": [1, 2], "b": ["x", "y"]}')
    assert read_table(tmp_path / "t.json", "audio")["b"][:] == ["x", "y"]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("t.csv", b"", "t.csv is empty: its first line must name the columns"),
        ("t.csv", HEADER, "split 'train' of .*t.csv holds no utterances"),
        ("t.csv", b"file_name,speaker,text,split\n", "t.csv has a header, but no rows"),
        ("t.csv", HEADER + b"a.flac,x,one, two\n", "line 2: 4 values, but the header names 3"),
        ("t.csv", HEADER + b"a.flac,x\n", "t.csv, line 2: 2 values, but the header names 3"),
        ("t.csv", b"file_name,speaker,speaker\na.flac,x,y\n", "t.csv has the column speaker twice"),
        ("t.csv", HEADER + b"a.flac,Zo\xeb,x\n", r"t.csv is not valid UTF-8 \(byte 32\)"),
        ("t.csv", HEADER + b'a.flac,x,"one\n', "t.csv, line 2: unexpected end of data"),
        ("t.jsonl", b"", "t.jsonl holds no rows"),
        ("t.jsonl", b'{"audio": "a.flac"}\n{"audio": \n', "t.jsonl, line 2: not valid JSON"),
        ("t.json", b"[1, 2]", "t.json holds no rows: write one object"),
    ],
)
def test_a_table_that_cannot_be_read_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as refused:
        load_speech(tmp_path / name, **SPEECH)
    assert "\n" not in str(refused.value)


def test_audio_beside_a_table_that_does_not_name_it(sounds, caplog):
    (sounds / "metadata.csv").write_text(
        "file_name,speaker,text,split\na.flac,x,one,train\nb.flac,x,two,test\n"
    )
    assert load_speech(sounds, **SPEECH)["id"][:] == ["a.flac"]
    assert load_speech(sounds, **{**SPEECH, "split": "test"})["id"][:] == ["b.flac"]
    warning = "names no transcript for 2 files beside it, which are left out: c.flac, d.flac"
    assert caplog.text.count(warning) == 1


def test_structs_of_audio_may_lack_a_part(sounds, long_flac):
    """Bytes alone, a path alone (relative to the table), both, and other fields besides them."""
    names = {"speaker": ["x", "y"], "text": ["one", "two"]}
    structs = [
        [{"bytes": long_flac}, {"bytes": long_flac}],
        [{"path": "a.flac"}, {"path": "b.flac"}],
        [{"bytes": long_flac, "path": "elsewhere.flac"}, {"bytes": None, "path": "b.flac"}],
        [{"path": "a.flac", "sampling_rate": 16_000}, {"path": "b.flac", "sampling_rate": 16_000}],
        [long_flac, long_flac],
    ]
    for number, audio in enumerate(structs):
        Dataset.from_dict({"audio": audio, **names}).to_parquet(sounds / f"{number}.parquet")
        rows = load_speech(sounds / f"{number}.parquet", **SPEECH)
        assert rows.features["audio"] == datasets.Audio(decode=False)
        assert [len(decode_audio(row["audio"])) for row in rows] == [24_000, 24_000]
    (sounds / "t.jsonl").write_text(
        '{"audio": {"path": "a.flac"}, "speaker": "x", "text": "one"}\n'
    )
    assert len(decode_audio(load_speech(sounds / "t.jsonl", **SPEECH)[0]["audio"])) == 24_000
    for number, audio in enumerate(
        (
            [{"path": "a.flac"}, {"path": None}],
            [{"path": "a.flac"}, {"path": ""}],
            [long_flac, None],
        )
    ):
        Dataset.from_dict({"audio": audio, **names}).to_parquet(sounds / f"none{number}.parquet")
        with pytest.raises(ValueError, match="1 of 2 rows of .* have no audio in column 'audio'"):
            load_speech(sounds / f"none{number}.parquet", **SPEECH)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_classes_are_what_is_written(pictures, suffix):
    rows = [
        {"file_name": f"{name}.png", "label": word}
        for name, word in zip("abcd", ["0010", "10", "NA", "True"])
    ]
    (pictures / f"metadata{suffix}").write_text(written(suffix, rows))
    for source in (pictures, pictures / f"metadata{suffix}"):
        images, names = load_images(source, split="train")
        assert images["class"][:] == names == ["0010", "10", "NA", "True"]
        assert images["id"][0] == "a.png"
        assert decode_image(images[3]["image"]).getpixel((0, 0)) == (3, 0, 0)


def test_numbers_as_classes_are_in_their_order(pictures):
    (pictures / "t.csv").write_text("image,label\na.png,10\nb.png,9\nc.png,0\nd.png,9\n")
    rows, names = load_images(pictures / "t.csv", split="train")
    assert names == ["0", "9", "10"] and rows["class"][:] == ["10", "9", "0", "9"]


def test_images_beside_a_table_that_does_not_name_them(pictures, caplog):
    (pictures / "metadata.csv").write_text("file_name,label\na.png,x\nb.png,y\n")
    rows, _ = load_images(pictures, split="train")
    assert len(rows) == 2
    assert "names no class for 2 files beside it, which are left out: c.png, d.png" in caplog.text


def test_a_table_of_images_for_each_split(tmp_path, pictures):
    for split, name in (("train", "a"), ("test", "b")):
        (tmp_path / "set" / split).mkdir(parents=True)
        (pictures / f"{name}.png").rename(tmp_path / "set" / split / f"{name}.png")
        (tmp_path / "set" / split / "metadata.csv").write_text(f"file_name,label\n{name}.png,007\n")
    for split, name in (("train", "a"), ("test", "b")):
        rows, names = load_images(tmp_path / "set", split=split)
        assert rows["id"][:] == [f"{split}/{name}.png"] and names == ["007"]
        assert decode_image(rows[0]["image"])
    with pytest.raises(ValueError, match="no split 'dev' in"):
        load_images(tmp_path / "set", split="dev")


def test_csv_files_that_datasets_finds_keep_their_names(sounds):
    """`datasets` looks for the tables in this folder, as in a Hub dataset of csv files."""
    (sounds / "set" / "data").mkdir(parents=True)
    lines = f"audio,speaker,text\n{sounds}/a.flac,0010,one\n{sounds}/b.flac,NA,two\n"
    (sounds / "set" / "data" / "train-00000.csv").write_text(lines)
    assert set(load_speech(sounds / "set", **SPEECH)["speaker"]) == {"0010", "NA"}


def test_structs_of_images_and_tables_without_rows(pictures):
    content = (pictures / "c.png").read_bytes()
    for number, image in enumerate(
        ([{"bytes": content}], [{"path": "c.png"}], [{"bytes": None, "path": "c.png"}], [content])
    ):
        Dataset.from_dict({"image": image, "label": ["x"]}).to_parquet(
            pictures / f"{number}.parquet"
        )
        rows, _ = load_images(pictures / f"{number}.parquet", split="train")
        assert decode_image(rows[0]["image"]).getpixel((0, 0)) == (2, 0, 0)
    (pictures / "t.csv").write_text("image,label\n")
    with pytest.raises(ValueError, match="split 'train' of .*t.csv holds no images"):
        load_images(pictures / "t.csv", split="train")


def test_a_streamed_file_may_have_bytes_or_a_path(sounds, long_flac):
    options = {"source": "x/y", "column": "audio", "expected": "audio files"}
    assert fetch_file({"bytes": b"1"}, **options) == {"bytes": b"1", "path": None}
    assert fetch_file({"path": str(sounds / "a.flac")}, **options)["bytes"] == long_flac
    with pytest.raises(
        ValueError, match="the audio column of x/y names gone/a.flac, which cannot be opened"
    ):
        fetch_file({"path": "gone/a.flac"}, **options)
