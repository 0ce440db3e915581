"""Uniform rows: ids where a source has none, owners that cannot be named, the first rows of each
owner."""

from pathlib import Path

import pytest
from datasets import ClassLabel, Value

from hf_unlearn.data.images.sources import IMAGES
from hf_unlearn.data.row_checks import check_columns
from hf_unlearn.data.rows import RowRequest
from hf_unlearn.data.sampling import FirstOfEach
from hf_unlearn.data.speech.sources import SPEECH
from hf_unlearn.data.uniform_rows import owner_names, row_ids

ROOT = Path("/data")


@pytest.mark.parametrize("kind", [SPEECH, IMAGES])
def test_ids_of_a_source_come_first_then_paths(kind):
    paths = ["/data/a/1", "/data/a/2"]
    assert row_ids(kind, None, paths, 0, "train", ROOT) == ["a/1", "a/2"]
    assert row_ids(kind, [7, None], paths, 0, "train", ROOT) == ["7", "a/2"]
    assert row_ids(kind, None, [None, None], 3, "dev", None) == ["dev-000000003", "dev-000000004"]


def test_an_image_that_a_table_lists_twice_has_two_ids():
    paths = ["/data/a", "/data/b", "/data/a"]
    assert row_ids(IMAGES, None, paths, 0, "train", ROOT) == ["a#0", "b#1", "a#2"]


@pytest.mark.parametrize("kind", [SPEECH, IMAGES])
def test_owners_are_texts(kind):
    assert owner_names(kind, [10, 9], Value("int64"), "who", "x") == ["10", "9"]
    assert owner_names(kind, [1, 0], ClassLabel(names=["a", "b"]), "who", "x") == ["b", "a"]


@pytest.mark.parametrize("kind", [SPEECH, IMAGES])
@pytest.mark.parametrize("values", [["a", None], ["a", ""], [0, -1]])
def test_missing_owners_are_counted(kind, values):
    feature = ClassLabel(names=["a"]) if values == [0, -1] else Value("string")
    message = f"1 of 2 rows read from x have no {kind.owner} in column 'who'"
    with pytest.raises(ValueError, match=message):
        owner_names(kind, values, feature, "who", "x")


@pytest.mark.parametrize("kind", [SPEECH, IMAGES])
def test_values_that_name_no_owner_are_refused(kind):
    with pytest.raises(ValueError, match=f"one number or name for each {kind.sample} is needed"):
        owner_names(kind, [[0, 1]], [Value("int64")], "who", "x")


def test_files_of_a_single_folder_have_no_owner():
    columns = {"id": "id", "class": "label", "image": "image"}
    with pytest.raises(ValueError, match="images of a single folder have no class"):
        check_columns(IMAGES, ["image"], columns, "x")


def test_first_rows_of_each_owner():
    request = RowRequest("x", None, "train", {}, owners=("a", "b"), limit=2)
    first = FirstOfEach(request)
    assert [first.accept(owner) for owner in "aacba"] == [True, True, False, True, False]
    assert not first.is_complete("ab")
    assert first.accept("b") and first.is_complete("ab")
