"""Nobody else is kept in place of the one who is to be forgotten: other spellings, earlier
requests, the same files."""

import datasets
import pytest

from hf_unlearn.data import split_by_speaker
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
    with pytest.raises(ValueError, match="would be kept"):  # as one who was never trained on
        split_by_speaker(make_rows(["alice", "bob"], 2), forget_speakers=["alice"], retain_size=1,
                         other=make_rows([other, "z"], 2, prefix="o-"))  # fmt: skip


@pytest.mark.parametrize(
    "one, other", [("straße", "STRASSE"), ("é", "e\u0301"), ("ﬁn", "fin"), ("a b", "A  b")]
)
def test_what_is_one_spelling(one, other):
    assert spelling(one) == spelling(other)


@pytest.mark.parametrize("one, other", [("0010", "10"), ("alice", "alicia"), ("a b", "ab")])
def test_what_are_two_names(one, other):
    assert spelling(one) != spelling(other)


def test_retained_speakers_may_have_two_spellings(make_rows):
    splits = split_by_speaker(make_rows(["a", "B", "b"], 2), forget_speakers=["a"], retain_size=2)
    assert set(splits.retain_pool["speaker"]) == {"B", "b"}


def test_who_was_forgotten_before_is_in_no_split(make_rows, caplog):
    train, test, other = (
        make_rows("abcd", 4),
        make_rows("bcd", 2, prefix="t-"),
        make_rows("bxy", 2, prefix="o-"),
    )
    options = {"forget_speakers": ["a"], "retain_size": 2, "test": test, "other": other}
    splits = split_by_speaker(train, **options, forgotten_before=["b", "gone"])
    assert {name for names in splits.describe()["speakers"].values() for name in names} == set(
        "acdxy"
    )
    assert "The model has forgotten speaker b before: left out of all splits." in caplog.text
    with pytest.raises(
        ValueError, match="speaker b is to be retained, but the model has forgotten it before"
    ):
        split_by_speaker(train, **options, forgotten_before=["b"], retain_speakers=["b", "c"])
    again = split_by_speaker(
        train, forget_speakers=["a", "b"], retain_size=2, forgotten_before=["b"]
    )
    assert set(again.forget["speaker"]) == {"a", "b"}


def pictures(classes, colours=None, prefix=""):
    """Two images of each class; the bytes are what tells them apart."""
    names = [(name, take) for name in classes for take in range(2)]
    content = (
        [f"{prefix}{name}{take}".encode() for name, take in names] if colours is None else colours
    )
    data = {
        "id": [f"{prefix}{name}-{take}" for name, take in names],
        "class": [name for name, _ in names],
    }
    data["image"] = [{"bytes": value, "path": None} for value in content]
    return datasets.Dataset.from_dict(data)


def test_another_spelling_of_a_class_is_not_kept():
    rows = pictures(["dog", "Dog", "cat"])
    with pytest.raises(
        ValueError,
        match="class 'Dog' would be kept, but 'dog' forgotten: .* name all spellings "
        "in forget_classes",
    ):
        split_images(rows, ["Dog", "cat", "dog"], forget_classes=["dog"], retain_size=1)
    splits = split_images(
        rows, ["Dog", "cat", "dog"], forget_classes=["dog", "Dog"], retain_size=1, held_out=0
    )
    assert set(splits.retain_pool["class"]) == {"cat"}


def test_classes_and_images_forgotten_before_are_in_no_split(caplog):
    rows, test = pictures(["dog", "cat", "owl"]), pictures(["dog", "cat", "owl"], prefix="t")
    classes = ["cat", "dog", "owl"]
    splits = split_images(rows, classes, forget_classes=["dog"], retain_size=1, test=test,
                          forgotten_before={"class": ["owl"], "id": ["cat-0"]})  # fmt: skip
    assert (
        splits.retain_pool["id"][:] == ["cat-1"]
        and set(splits.test["class"]) == {"cat"}
        and splits.classes == classes
    )
    assert (
        "has forgotten class owl before" in caplog.text
        and "has forgotten id cat-0 before" in caplog.text
    )
    with pytest.raises(ValueError, match="class owl is to be retained, but"):
        split_images(rows, classes, forget_classes=["dog"], retain_size=1, retain_classes=["owl"], test=test,
                     forgotten_before={"class": ["owl"]})  # fmt: skip


def test_the_same_file_on_both_sides(make_rows, caplog):
    rows, classes = pictures(["dog", "cat"]), ["cat", "dog"]
    proxy = pictures(["cat"], [b"dog0", b"x"], prefix="p")
    with pytest.raises(
        ValueError,
        match="1 images to forget are in the retain set, too .* such as dog-0 and pcat-0: take them",
    ):
        split_images(
            rows,
            classes,
            forget_classes=["dog"],
            retain_size=2,
            proxy=proxy,
            test=pictures(classes, prefix="t"),
        )
    twice = pictures(["dog", "cat"], [b"1", b"2", b"1", b"3"])
    split_images(
        twice, classes, forget_classes=["dog"], retain_size=2, test=pictures(classes, prefix="t")
    )
    assert (
        "1 images to forget are in the retain set, too (the same file), such as dog-0 and cat-0"
        in caplog.text
    )
    speech = make_rows("ab", 1)
    speech = datasets.concatenate_datasets([speech, speech.select([0]).remove_columns(["id", "speaker"]).add_column(
        "id", ["b-9"]).add_column("speaker", ["b"]).select_columns(speech.column_names).cast(speech.features)])  # fmt: skip
    split_by_speaker(speech, forget_speakers=["a"], retain_size=2, held_out=0)
    assert (
        "1 utterances to forget are in the retain set, too (the same file), such as a-0 and b-9"
        in caplog.text
    )
