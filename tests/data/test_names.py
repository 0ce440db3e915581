"""Nothing to be forgotten is kept under another name: other spellings, earlier requests, identical
files."""

import re

import datasets
import pytest

from hf_unlearn.data import split_by_speaker
from hf_unlearn.data.class_splits import ClassRequest
from hf_unlearn.data.earlier import EarlierRequest
from hf_unlearn.data.images.splits import split_images
from hf_unlearn.data.names import spelling

SPELLINGS = ["alice ", " alice", "Alice", "ALICE", "ａｌｉｃｅ", "alice\u00a0"]


@pytest.mark.parametrize("other", SPELLINGS)
def test_another_spelling_is_not_kept(make_rows, other):
    rows = make_rows(["alice", "bob", other], 2)
    assert spelling(other) == "alice"
    with pytest.raises(
        ValueError,
        match="would be kept, but 'alice' forgotten: .* name all spellings in forget_speakers",
    ):
        split_by_speaker(rows, forget_speakers=["alice"], retain_size=1)
    splits = split_by_speaker(rows, forget_speakers=["alice", other], retain_size=1)
    assert set(splits.retain_pool["speaker"]) == {"bob"}
    # in the split of speakers never trained on, too
    strangers = make_rows([other, "z"], 2, prefix="o-")
    rows = make_rows(["alice", "bob"], 2)
    with pytest.raises(ValueError, match="would be kept"):
        split_by_speaker(rows, forget_speakers=["alice"], retain_size=1, other=strangers)


@pytest.mark.parametrize(
    "one, other", [("straße", "STRASSE"), ("é", "e\u0301"), ("ﬁn", "fin"), ("a b", "A  b")]
)
def test_spellings_of_one_name(one, other):
    assert spelling(one) == spelling(other)


@pytest.mark.parametrize("one, other", [("0010", "10"), ("alice", "alicia"), ("a b", "ab")])
def test_different_names_stay_different(one, other):
    assert spelling(one) != spelling(other)


def test_retained_speakers_may_have_two_spellings(make_rows):
    splits = split_by_speaker(make_rows(["a", "B", "b"], 2), forget_speakers=["a"], retain_size=2)
    assert set(splits.retain_pool["speaker"]) == {"B", "b"}


def test_speakers_of_earlier_requests_are_in_no_split(make_rows, caplog):
    train = make_rows("abcd", 4)
    test, other = make_rows("bcd", 2, prefix="t-"), make_rows("bxy", 2, prefix="o-")
    options = {"forget_speakers": ["a"], "retain_size": 2, "test": test, "other": other}
    earlier = [EarlierRequest.of_names("speaker", [" B", "gone"])]
    splits = split_by_speaker(train, **options, earlier=earlier)
    assert set().union(*splits.describe()["speakers"].values()) == set("acdxy")
    assert not splits.earlier
    assert "speaker b already forgotten by this model: left out of all splits." in caplog.text
    with pytest.raises(
        ValueError, match="a speaker to be retained was already forgotten by an earlier request: b"
    ):
        split_by_speaker(train, **options, earlier=earlier, retain_speakers=["b", "c"])
    again = split_by_speaker(train, forget_speakers=["a", "b"], retain_size=2, earlier=earlier)
    assert set(again.forget["speaker"]) == {"a", "b"}


def test_a_request_of_names_alone_has_no_split():
    assert EarlierRequest(2, "speaker", "b".__eq__).split == "earlier_2"
    with pytest.raises(ValueError, match="gives only names of the column speaker has no split"):
        _ = EarlierRequest.of_names("speaker", ["b"]).split


def pictures(classes, contents=None, prefix=""):
    """Two rows of each class with different contents, which are not decoded here."""
    names = [(name, take) for name in classes for take in range(2)]
    contents = contents or [f"{prefix}{name}{take}".encode() for name, take in names]
    return datasets.Dataset.from_dict(
        {
            "id": [f"{prefix}{name}-{take}" for name, take in names],
            "class": [name for name, _ in names],
            "image": [{"bytes": content, "path": None} for content in contents],
        }
    )


def test_another_spelling_of_a_class_is_not_kept():
    rows = pictures(["dog", "Dog", "cat"])
    with pytest.raises(
        ValueError,
        match="class 'Dog' would be kept, but 'dog' forgotten: .* spellings in forget_classes",
    ):
        request = ClassRequest(forget_classes=["dog"], retain_size=1)
        split_images(rows, ["Dog", "cat", "dog"], request)
    request = ClassRequest(forget_classes=["dog", "Dog"], retain_size=1)
    splits = split_images(rows, ["Dog", "cat", "dog"], request, held_out=0)
    assert set(splits.retain_pool["class"]) == {"cat"}


def test_classes_and_images_of_earlier_requests_are_in_no_split(caplog):
    rows, test = pictures(["dog", "cat", "owl"]), pictures(["dog", "cat", "owl"], prefix="t")
    classes = ["cat", "dog", "owl"]
    request = ClassRequest(forget_classes=["dog"], retain_size=1)
    # Ids are compared exactly.
    named = {"class": ["OWL"], "id": ["cat-0", "CAT-1"]}
    earlier = [EarlierRequest.of_names(column, names) for column, names in named.items()]
    splits = split_images(rows, classes, request, test=test, earlier=earlier)
    assert splits.retain_pool["id"][:] == ["cat-1"]
    assert set(splits.test["class"]) == {"cat"}
    assert splits.classes == classes
    assert "class owl already forgotten by this model" in caplog.text
    assert "id cat-0 already forgotten by this model" in caplog.text
    request = ClassRequest(forget_classes=["dog"], retain_size=1, retain_classes=["owl"])
    with pytest.raises(
        ValueError, match="a class to be retained was already forgotten by an earlier request: owl"
    ):
        split_images(rows, classes, request, test=test, earlier=earlier)


def test_an_image_file_to_forget_is_in_the_retain_set(caplog):
    classes = ["cat", "dog"]
    request = ClassRequest(forget_classes=["dog"], retain_size=2)
    test = pictures(classes, prefix="t")
    proxy = pictures(["cat"], [b"dog0", b"x"], prefix="p")
    message = "1 images to forget are in the retain set, too (the same file), such as"
    with pytest.raises(ValueError, match=f"{re.escape(message)} dog-0 and pcat-0: take them out"):
        split_images(pictures(["dog", "cat"]), classes, request, test=test, proxy=proxy)
    split_images(pictures(["dog", "cat"], [b"1", b"2", b"1", b"3"]), classes, request, test=test)
    assert f"{message} dog-0 and cat-0: take one of each pair" in caplog.text


def test_an_audio_file_to_forget_is_in_the_retain_set(make_rows, caplog):
    rows = make_rows("ab", 1)
    copy = rows.select([0]).map(lambda row: {"id": "b-9", "speaker": "b"}, features=rows.features)
    rows = datasets.concatenate_datasets([rows, copy])
    split_by_speaker(rows, forget_speakers=["a"], retain_size=2, held_out=0)
    message = (
        "1 utterances to forget are in the retain set, too (the same file), such as a-0 and b-9"
    )
    assert message in caplog.text
