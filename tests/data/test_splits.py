"""Splits by speaker: which utterance is in which split, and what is refused."""

import json
from collections import Counter
from dataclasses import replace

import datasets
import numpy as np
import pytest

from hf_unlearn.data import SpeechArguments, load_splits, prepare_splits, split_by_speaker


def split(train, forget=("a",), retain_size=4, **options):
    return split_by_speaker(train, forget_speakers=forget, retain_size=retain_size, **options)


def ids(rows):
    return list(rows["id"])


def parts(splits):
    return {
        name: ids(part) for name, part in vars(splits).items() if isinstance(part, datasets.Dataset)
    }


def test_unseen_utterances_are_held_out_from_training(make_rows):
    splits = split(make_rows("abc", 10), held_out=0.2)
    sizes = {name: len(part) for name, part in parts(splits).items()}
    assert sizes == {"forget": 8, "forget_test": 2, "retain": 4, "retain_pool": 16, "test": 4}
    assert set(splits.forget["speaker"]) == set(splits.forget_test["speaker"]) == {"a"}
    assert Counter(splits.test["speaker"]) == {"b": 2, "c": 2}
    disjoint = [splits.forget, splits.forget_test, splits.retain_pool, splits.test]
    assert sorted(name for part in disjoint for name in part["id"]) == sorted(
        make_rows("abc", 10)["id"]
    )
    assert set(splits.retain["id"]) <= set(splits.retain_pool["id"])
    assert splits.other is None


def test_depends_on_rows_and_seed_only(make_rows):
    rows = make_rows("abc", 10)
    expected = parts(split(rows, seed=3))
    assert parts(split(rows.select(np.random.default_rng(0).permutation(30)), seed=3)) == expected
    assert parts(split(rows, seed=4)) != expected
    alone = parts(split(rows, retain_speakers=["b"], seed=3))
    # The other speakers do not change it.
    assert alone["forget"] == expected["forget"]


def test_retain_set_is_balanced_and_grows(make_rows):
    rows = datasets.concatenate_datasets([make_rows("abc", 8), make_rows("d", 1)])
    sets = [split(rows, retain_size=size, held_out=0).retain for size in (1, 5, 10, 17)]
    for smaller, larger in zip(sets, sets[1:]):
        assert set(smaller["id"]) < set(larger["id"])
    assert Counter(sets[1]["speaker"]) in [{"b": 2, "c": 2, "d": 1}]
    assert Counter(sets[3]["speaker"]) == {"b": 8, "c": 8, "d": 1}
    assert len(split(rows, retain_size=0.5, held_out=0).retain) == 8


def test_what_is_retained_outside_of_the_retain_set(make_rows, processor):
    splits = split(make_rows("abc", 10), retain_size=4, retain_rest=6)
    assert Counter(splits.retain_rest["speaker"]) == {"b": 3, "c": 3}
    assert set(ids(splits.retain_rest)) <= set(ids(splits.retain_pool)) - set(ids(splits.retain))
    assert list(splits.evaluation()) == ["forget", "forget_test", "retain", "retain_rest", "test"]
    all_of_it = split(make_rows("abc", 10), retain_size=4, retain_rest=99)
    assert set(ids(all_of_it.retain_rest)) == set(ids(splits.retain_pool)) - set(ids(splits.retain))
    assert split(make_rows("abc", 10), retain_size=18, retain_rest=6).retain_rest is None
    for retain_pool in (True, False):
        prepared = prepare_splits(
            splits, processor, SpeechArguments(), max_label_length=8, retain_pool=retain_pool
        )
        assert ids(prepared.retain_rest) == ids(splits.retain_rest)
        assert "labels" in prepared.retain_rest[0]


def test_several_speakers_are_forgotten(make_rows):
    splits = split(make_rows("abc", 4), ["a", "c"], retain_size=2)
    assert set(splits.forget["speaker"]) == {"a", "c"}
    assert set(splits.retain_pool["speaker"]) == {"b"}


def test_single_utterance_is_not_held_out(make_rows):
    splits = split(make_rows("abc", 1), retain_size=2, held_out=0.5)
    assert (len(splits.forget), len(splits.forget_test), len(splits.test)) == (1, 0, 0)
    assert list(splits.evaluation()) == ["forget", "retain"]


def test_a_test_split_gives_the_unseen_utterances(make_rows):
    splits = split(make_rows("abc", 4), test=make_rows("abz", 2, prefix="t-"), held_out=0.25)
    assert ids(splits.forget_test) == ["t-a-0", "t-a-1"] and len(splits.forget) == 4
    # c has no utterances in test, so one is held out.
    assert [name[:-1] for name in splits.test["id"]] == ["c-", "t-b-", "t-b-"]
    assert ids(splits.other) == ["t-z-0", "t-z-1"]


def test_another_split_gives_speakers_that_were_never_trained_on(make_rows):
    splits = split(
        make_rows("abc", 4),
        retain_size=2,
        retain_speakers=["b"],
        other=make_rows("acz", 2, prefix="o-"),
    )
    assert set(splits.other["speaker"]) == {"c", "z"}
    with pytest.raises(
        ValueError, match="every speaker of the other split is one that the model was trained on"
    ):
        split(make_rows("abc", 4), other=make_rows("abc", 2, prefix="o-"))


def test_evaluated_samples_are_bounded_and_described(make_rows):
    splits = split(make_rows("abcd", 10), other=make_rows("z", 9), held_out=0.3)
    bounded = splits.evaluation(4)
    assert list(bounded) == ["forget", "forget_test", "retain", "test", "other"]
    assert [len(part) for part in bounded.values()] == [4, 3, 4, 4, 4]
    assert max(Counter(bounded["test"]["speaker"]).values()) == 2
    assert ids(bounded["forget"]) == ids(
        split(make_rows("abcd", 10), held_out=0.3).evaluation(4)["forget"]
    )
    described = json.loads(json.dumps(splits.describe()))
    assert described["seed"] == 0 and described["utterances"]["retain_pool"] == 21
    assert described["speakers"]["forget"] == ["a"]
    assert described["retain_ids"] == ids(splits.retain)
    with pytest.raises(ValueError, match="cannot be bounded to 0 samples"):
        splits.evaluation(0)


def test_speakers_and_sizes_that_do_not_fit_the_data_are_refused(make_rows):
    rows = make_rows("abc", 4)
    with pytest.raises(
        ValueError,
        match="unknown speaker 'aa' in the training split, which has 3 speakers: 'a', ",
    ):
        split(rows, ["aa"])
    with pytest.raises(
        ValueError, match="speaker b is in both forget_speakers and retain_speakers"
    ):
        split(rows, ["a", "b"], retain_speakers=["b", "c"])
    with pytest.raises(ValueError, match="no speaker to forget: name one or more"):
        split(rows, [])
    with pytest.raises(ValueError, match="the retain set is empty: no training utterance is left"):
        split(rows, ["a", "b", "c"])
    with pytest.raises(ValueError, match="retain_size is 9, but only 6 utterances are available"):
        split(rows, retain_size=9)
    for size in (0, -2, 1.5, 0.01):
        with pytest.raises(
            ValueError, match=f"retain_size is {size}, of 6 utterances: give a number, a share"
        ):
            split(rows, retain_size=size)
    for share in (1, -0.1, 2):
        with pytest.raises(
            ValueError, match=f"held_out is {share}: give the share .* in \\[0, 1\\)"
        ):
            split(rows, held_out=share)
    with pytest.raises(
        ValueError,
        match="4 ids of utterances are in both the training and the test split, among them 'a-0'",
    ):
        split(rows, test=make_rows("a", 4))


@pytest.fixture
def args(folder):
    return SpeechArguments(
        dataset=str(folder),
        train_split="train",
        test_split="test",
        speaker_column="speaker",
        forget_speakers=["007"],
        retain_size=1,
    )


def test_splits_are_loaded_and_prepared(args, processor):
    splits = load_splits(args, seed=0)
    prepared = prepare_splits(splits, processor, args, max_label_length=8)
    assert parts(prepared) == parts(splits)
    assert ids(splits.forget_test) == ["007/0.flac"] and ids(splits.test) == ["008/0.flac"]
    for part in prepared.evaluation().values():
        assert part[0]["input_features"].shape == (8, 100)
    assert len(prepared.retain_pool[0]["labels"]) == 3
    lean = prepare_splits(splits, processor, args, max_label_length=8, retain_pool=False)
    assert "audio" in lean.retain_pool.column_names
    assert lean.retain[0]["labels"] == prepared.retain[0]["labels"]


def test_only_what_is_used_is_decoded(args, processor, make_rows, folder):
    splits = load_splits(args, seed=0)
    unused = set(splits.retain_pool["id"]) - set(splits.retain["id"])
    (folder / unused.pop()).write_bytes(b"broken")
    prepare_splits(splits, processor, args, max_label_length=8, retain_pool=False)
    with pytest.raises(ValueError, match="cannot decode the audio"):
        prepare_splits(splits, processor, args, max_label_length=8)


def test_evaluated_splits_are_bounded_before_preparation(make_rows, processor):
    splits = split(make_rows("abcd", 6), held_out=0.5, retain_size=2)
    args = SpeechArguments(max_eval_samples=2)
    prepared = prepare_splits(splits, processor, args, max_label_length=8, retain_pool=False)
    assert (len(prepared.test), len(prepared.forget)) == (2, 3)
    assert ids(prepared.evaluation(2)["test"]) == ids(splits.evaluation(2)["test"])


def test_refusals_before_anything_is_loaded(args):
    with pytest.raises(ValueError, match="speaker 007 is in both"):
        load_splits(replace(args, retain_speakers=["007"]), seed=0)
    with pytest.raises(
        ValueError, match="unknown speaker '009' in .*, which has 2 speakers: '007', '008'"
    ):
        load_splits(replace(args, forget_speakers=["009"]), seed=0)


def test_real_speakers_are_split_and_balanced(shared):
    args = SpeechArguments(
        dataset=str(shared("LibriSpeech")),
        train_split="test-other",
        forget_speakers=[367],
        retain_size=18,
    )
    splits = load_splits(args, seed=0)
    assert splits.describe()["utterances"] == {
        "forget": 9,
        "forget_test": 1,
        "retain": 18,
        "retain_pool": 81,
        "test": 9,
    }
    assert set(Counter(splits.retain["speaker"]).values()) == {2}


def test_minus_one_retains_all_that_can_be_retained(make_rows):
    splits = split(make_rows("abc", 5), retain_size=-1, held_out=0.2)
    assert len(splits.retain) == len(splits.retain_pool) == 8
