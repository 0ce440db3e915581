"""LibriSpeech from the Hub (a table with the same columns) and from the official tree."""

import datasets
import pytest
from datasets import ClassLabel

from hf_unlearn.data import SpeechArguments, decode_audio, load_speech, load_splits
from hf_unlearn.data.speech.librispeech import read_subset, subsets

HUB = {"source": "openslr/librispeech_asr", "config": "clean", "split": "train.100"}


@pytest.fixture
def hub(monkeypatch, hub_rows):
    """`load_dataset` of the Hub id gives `hub.rows`, or no rows if `hub.empty`; `hub.calls` and
    `hub.revisions` record the calls."""

    class Hub:
        rows, calls, revisions, empty = hub_rows, [], [], False

        def load_dataset(self, path, name=None, *, split=None, streaming=False, revision=None):
            assert (path, name) == ("openslr/librispeech_asr", "clean")
            self.revisions.append(revision)
            self.calls.append(split)
            if not streaming:
                return self.rows.select([] if self.empty else range(len(self.rows)))
            stream = self.rows.cast_column(
                "audio", datasets.Audio(decode=False)
            ).to_iterable_dataset()
            return stream.cast_column("audio", self.rows.features["audio"]).take(
                0 if self.empty else len(self.rows)
            )

    hub = Hub()
    monkeypatch.setattr(datasets, "load_dataset", hub.load_dataset)
    return hub


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_of_a_hub_dataset(hub, streaming):
    rows = load_speech(**HUB, streaming=streaming)
    assert rows.column_names == ["id", "speaker", "text", "audio"]
    assert rows["id"] == sorted(hub.rows["id"])
    assert set(rows["speaker"]) == {"374", "1034", "2007"}
    assert rows.features["audio"] == datasets.Audio(decode=False)
    assert decode_audio(rows[0]["audio"]).shape == (3200,)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_hub_dataset_gives_the_first_utterances_of_each_speaker(hub, streaming):
    rows = load_speech(
        **HUB, streaming=streaming, speakers=[374, "2007"], max_utterances_per_speaker=2
    )
    assert list(rows["id"]) == ["2007-0", "2007-1", "374-0", "374-1"]


@pytest.mark.parametrize("streaming", [False, True])
def test_unknown_and_missing_speakers_of_a_hub_dataset_are_refused(hub, streaming):
    with pytest.raises(
        ValueError, match="unknown speaker '37' in openslr.*, which has 3 speakers: .*'374'"
    ):
        load_speech(**HUB, streaming=streaming, speakers=["37"])
    with pytest.raises(
        ValueError,
        match="no speaker column 'who' \\(speaker_column\\) .*are id, text, audio, speaker_id",
    ):
        load_speech(**HUB, streaming=streaming, speaker_column="who")
    hub.rows = hub.rows.remove_columns("speaker_id").add_column("speaker_id", [1] * 11 + [None])
    with pytest.raises(ValueError, match="1 of 12 rows .* have no speaker in column 'speaker_id'"):
        load_speech(**HUB, streaming=streaming)


@pytest.mark.parametrize("streaming", [False, True])
def test_hub_split_without_rows(hub, streaming):
    hub.empty = True
    with pytest.raises(
        ValueError, match="split 'train.100' of openslr/librispeech_asr holds no utterances"
    ):
        load_speech(**HUB, streaming=streaming)


@pytest.mark.parametrize("streaming", [False, True])
def test_without_ids_paths_or_row_numbers_are_the_ids(hub, streaming):
    assert load_speech(**HUB, streaming=streaming, id_column="none")["id"][0] == "1034-0.flac"
    bare = [
        {"bytes": row["bytes"], "path": None}
        for row in hub.rows.cast_column("audio", datasets.Audio(decode=False))["audio"]
    ]
    table = hub.rows.remove_columns("audio").add_column("audio", bare)
    hub.rows = table.cast_column("audio", datasets.Audio(decode=False))
    ids = load_speech(**HUB, streaming=streaming, id_column="neither")["id"]
    assert ids[0] == "train.100-000000000" and ids[-1] == "train.100-000000011"


@pytest.mark.parametrize("streaming", [False, True])
def test_class_labels_go_by_their_names(hub, streaming):
    labels = hub.rows.remove_columns("speaker_id").add_column("speaker_id", [0, 1, 2] * 4)
    hub.rows = labels.cast_column("speaker_id", ClassLabel(names=["ann", "bob", "cy"]))
    assert set(load_speech(**HUB, streaming=streaming)["speaker"]) == {"ann", "bob", "cy"}


@pytest.mark.parametrize("speakers, needed", [(["374"], 2), (["374", "1034", "2007"], 10)])
def test_a_bounded_stream_is_read_no_further_than_needed(hub, monkeypatch, speakers, needed):
    monkeypatch.setattr("hf_unlearn.data.streams.STREAM_BATCH", 2)
    read = []

    def watched(table):
        read.append(len(table))
        return table

    plain = hub.load_dataset

    def load_dataset(*args, **options):
        stream = plain(*args, **options).with_format("arrow")
        return stream.map(watched, batched=True, batch_size=2, features=stream.features)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    load_speech(**HUB, streaming=True, speakers=speakers, max_utterances_per_speaker=2)
    # of 12 rows; `datasets` reads one batch ahead
    assert sum(read) <= needed + 2


def test_a_stream_is_read_once(hub):
    first = load_speech(**HUB, streaming=True, speakers=["374"])
    calls = len(hub.calls)
    assert list(load_speech(**HUB, streaming=True, speakers=["374"])["id"]) == list(first["id"])
    assert len(hub.calls) == calls


def test_a_stream_is_stored_by_its_commit(hub, commits, caplog):
    """A dataset that changed on the Hub is read anew. If the Hub cannot be reached, the rows of the
    last commit are used, with a warning."""
    bounds = {"streaming": True, "speakers": ["374"]}
    assert set(load_speech(**HUB, **bounds)["text"]) == {"ONE TWO"}
    hub.rows = hub.rows.remove_columns("text").add_column("text", ["THREE"] * len(hub.rows))
    assert set(load_speech(**HUB, **bounds)["text"]) == {"ONE TWO"}
    commits.now = "second"
    assert set(load_speech(**HUB, **bounds)["text"]) == {"THREE"}
    assert hub.revisions == ["first", "second"]
    commits.now = None
    assert set(load_speech(**HUB, **bounds)["text"]) == {"THREE"} and len(hub.revisions) == 2
    assert "commit of openslr/librispeech_asr is (ConnectionError): revision second" in caplog.text
    load_speech(**HUB, **bounds, revision="v1")
    assert hub.revisions[2:] == ["v1"] and commits.asked[-1] == (HUB["source"], "v1")


def test_a_dataset_that_is_not_streamed_has_a_revision_too(hub):
    load_speech(**HUB, revision="v1")
    load_speech(**HUB)
    assert hub.revisions == ["v1", None]


def test_a_streamed_hub_dataset_is_split_by_speaker(hub):
    args = SpeechArguments(
        dataset_config="clean",
        forget_speakers=[374],
        retain_speakers=[1034],
        retain_size=2,
        held_out=0.25,
        streaming=True,
    )
    splits = load_splits(args, seed=1)
    assert splits.describe()["utterances"] == {
        "forget": 3,
        "forget_test": 1,
        "retain": 2,
        "retain_pool": 3,
        "test": 1,
    }


def test_splits_of_an_endless_stream_depend_on_the_revision_and_the_seed(
    hub, monkeypatch, tmp_path
):
    """As those of a set that is larger than the disk: what is read and stored is bounded."""
    load_dataset = hub.load_dataset
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *names, **how: load_dataset(*names, **how).repeat(None)
    )
    args = SpeechArguments(
        dataset_config="clean",
        dataset_revision="v1",
        forget_speakers=[374],
        retain_speakers=[1034, 2007],
        max_utterances_per_speaker=4,
        retain_size=2,
        held_out=0.25,
        streaming=True,
    )

    def ids(seed: int, cache: str) -> dict[str, list[str]]:
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / cache)
        splits = load_splits(args, seed=seed)
        return {
            name: getattr(splits, name)["id"][:]
            for name in ("forget", "forget_test", "retain", "test")
        }

    first = ids(0, "cache")
    sizes = {"forget": 3, "forget_test": 1, "retain": 2, "test": 2}
    assert {name: len(names) for name, names in first.items()} == sizes
    assert ids(0, "another cache") == first
    assert any(ids(seed, "cache") != first for seed in range(1, 4))
    # once for each cache, whatever the number of speakers
    assert hub.revisions == ["first", "first"]


def test_rows_of_a_librispeech_tree(tree):
    assert set(subsets(tree)) == set(subsets(tree.parent)) == {"train-clean-100"}
    rows = load_speech(tree.parent, split="train-clean-100")
    assert list(rows["id"]) == [
        f"{speaker}-9-000{take}" for speaker in (14, 367) for take in range(3)
    ]
    assert rows[0]["speaker"] == "14" and rows[0]["text"] == "ONE TWO"
    assert decode_audio(rows[0]["audio"]).shape == (3200,)
    assert set(load_speech(tree, split="train-clean-100", speakers=[367])["speaker"]) == {"367"}


def test_unknown_subsets_and_speakers_of_a_tree_are_refused(tree):
    with pytest.raises(
        ValueError,
        match="no subset 'train.100' in the LibriSpeech tree .* it holds train-clean-100",
    ):
        read_subset(tree, "train.100")
    with pytest.raises(ValueError, match="unknown speaker '15' in .* which has 2 speakers: .*'14'"):
        load_speech(tree, split="train-clean-100", speakers=["15"])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_tree_in_another_encoding(tree, encoding):
    expected = load_speech(tree, split="train-clean-100")
    for transcript in tree.rglob("*.trans.txt"):
        transcript.write_bytes(
            transcript.read_text().replace("ONE", "Zoë").replace("\n", "\r\n").encode(encoding)
        )
    rows = load_speech(tree, split="train-clean-100")
    assert rows["id"] == expected["id"] and set(rows["text"]) == {"Zoë TWO"}
    transcript.write_bytes("14-9-0000 Zoë".encode("latin-1"))
    with pytest.raises(ValueError, match=r"-9.trans.txt is not valid UTF-8 \(byte 12\)"):
        load_speech(tree, split="train-clean-100")


def test_audio_without_a_line_and_lines_without_audio_are_named(tree, caplog):
    chapter = tree / "train-clean-100" / "14" / "9"
    (chapter / "14-9-0007.flac").write_bytes(b"")
    alone = tree / "train-clean-100" / "99" / "1"
    alone.mkdir(parents=True)
    (alone / "99-1-0000.flac").write_bytes(b"")
    (chapter / "14-9-0001.flac").unlink()
    rows = load_speech(tree, split="train-clean-100")
    # Decoding it later is refused, or skips it.
    assert len(rows) == 6 and "14-9-0001" in rows["id"][:]
    unlisted = "2 audio files have no line in a *.trans.txt, and are left out: 14-9-0007, 99-1-0000"
    assert unlisted in caplog.text
    assert "1 lines of *.trans.txt have no audio file beside them: 14-9-0001" in caplog.text


def test_the_official_folders_are_read(shared):
    rows = load_speech(shared("LibriSpeech"), split="test-other", max_utterances_per_speaker=2)
    assert len(rows) == 20 and len(set(rows["speaker"])) == 10
    assert rows[0]["text"].isupper()
    waveform = decode_audio(rows[0]["audio"])
    assert waveform.dtype == "float32" and 16_000 < len(waveform) < 35 * 16_000
