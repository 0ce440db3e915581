"""Error rates compared with counts made by hand, and intervals compared with theory."""

import gc
import socket
import tempfile

import numpy as np
import pytest

from hf_unlearn.metrics import quality
from hf_unlearn.metrics.quality import (
    CharacterErrorRate,
    WordErrorRate,
    accuracy,
    accuracy_of_classes,
    bootstrap_interval,
    character_errors,
    error_rate,
    f1_macro,
    word_errors,
)

REFERENCES = ["the cat sat", "on the mat", "and slept"]
# 1 substitution; 1 deletion; 2 insertions
PREDICTIONS = ["the bat sat", "on mat", "and so it slept"]


def test_word_errors_per_utterance():
    errors, words = word_errors(PREDICTIONS, REFERENCES)
    np.testing.assert_array_equal(errors, [1, 1, 2])
    np.testing.assert_array_equal(words, [3, 3, 2])


def test_character_errors_count_spaces():
    errors, characters = character_errors(["a bc", ""], ["abd", "xy"])
    # A space is inserted and d becomes c; both characters are deleted.
    np.testing.assert_array_equal(errors, [2, 2])
    np.testing.assert_array_equal(characters, [3, 2])


def test_unequal_spans_are_not_counted_twice():
    errors, _ = word_errors(["x y z"], ["a"])
    # One substitution and two insertions.
    np.testing.assert_array_equal(errors, [3])


def test_rate_is_over_the_corpus_and_in_percent():
    errors, words = word_errors(PREDICTIONS, REFERENCES)
    # The mean of the utterances' rates would be 55.6.
    assert error_rate(errors, words) == pytest.approx(50.0)


def test_rate_may_exceed_100():
    assert error_rate(*word_errors(["a b c d"], ["x"])) == pytest.approx(400.0)


def test_empty_prediction_is_all_wrong():
    assert error_rate(*word_errors(["", ""], ["a b", "c"])) == pytest.approx(100.0)


@pytest.mark.parametrize("count", [word_errors, character_errors])
def test_empty_reference_is_refused_with_its_index(count):
    with pytest.raises(ValueError, match=r"reference 1 is empty \(1 of 2 are\)"):
        count(["a", "b"], ["a", "  "])


def test_empty_reference_counts_insertions_when_allowed():
    errors, words = word_errors(["a", "b c"], ["a", ""], allow_empty=True)
    np.testing.assert_array_equal((errors, words), ([0, 2], [1, 0]))


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="2 predictions for 1 references"):
        word_errors(["a", "b"], ["a"])


def test_a_corpus_without_words_is_refused():
    with pytest.raises(ValueError, match="contain no words"):
        error_rate(np.array([2]), np.array([0]))


def test_interval_is_deterministic_and_does_not_depend_on_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    errors, words = rng.integers(0, 4, 50), rng.integers(1, 12, 50)
    first = bootstrap_interval(errors, words)
    assert first == bootstrap_interval(errors, words) != bootstrap_interval(errors, words, seed=1)
    monkeypatch.setattr(quality, "BLOCK", 120)
    assert first == pytest.approx(bootstrap_interval(errors, words), abs=1e-12)


def test_interval_has_the_width_of_the_normal_approximation():
    # 25 % of one-word utterances are wrong.
    errors = (np.arange(400) % 4 == 0).astype(int)
    low, high = bootstrap_interval(errors, np.ones(400, int), resamples=4000)
    half = 1.96 * 100 * np.sqrt(0.25 * 0.75 / 400)
    assert (low, high) == pytest.approx((25 - half, 25 + half), abs=0.5)


def test_interval_widens_with_its_level():
    errors, words = np.array([0, 1, 2, 0, 3, 1]), np.full(6, 4)
    narrow, wide = (bootstrap_interval(errors, words, level=level) for level in (0.5, 0.95))
    assert wide[0] < narrow[0] < error_rate(errors, words) < narrow[1] < wide[1]
    with pytest.raises(ValueError, match="level=95"):
        bootstrap_interval(errors, words, level=95)


def test_interval_survives_resamples_of_empty_references():
    low, high = bootstrap_interval(np.array([1, 0]), np.array([2, 0]))
    assert (low, high) == (50.0, 50.0)


def test_metrics_need_no_network_and_leave_no_files(monkeypatch, tmp_path):
    monkeypatch.setattr(socket, "create_connection", None)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    metric = WordErrorRate()
    assert metric.compute(predictions=PREDICTIONS, references=REFERENCES) == {
        "wer": pytest.approx(50.0)
    }
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    del metric
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_metrics_accumulate_batches_and_give_intervals():
    metric = CharacterErrorRate()
    metric.add_batch(predictions=["ab"], references=["ac"])
    metric.add(prediction="", reference="de")
    rates = metric.compute(resamples=100)
    assert rates["cer"] == pytest.approx(75.0)
    assert (rates["cer_low"], rates["cer_high"]) == (50.0, 100.0)


def test_two_metrics_at_once_do_not_share_their_inputs():
    first, second = WordErrorRate(keep_in_memory=False), WordErrorRate(keep_in_memory=False)
    first.add_batch(predictions=["a"], references=["a"])
    second.add_batch(predictions=["b"], references=["a"])
    assert (first.compute()["wer"], second.compute()["wer"]) == (0.0, 100.0)


class TestAccuracy:
    def test_accuracy_has_wilsons_interval(self):
        rates = accuracy([1, 2, 3, 0], [1, 2, 3, 3])
        assert rates["accuracy"] == 75.0
        # Wilson's interval with z = 1.95996, n = 4 and p = 0.75:
        # (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)
        assert (rates["accuracy_low"], rates["accuracy_high"]) == pytest.approx(
            (30.06, 95.44), abs=0.01
        )

    def test_the_accuracy_of_each_class(self):
        assert accuracy_of_classes([0, 1, 1, 2], [0, 0, 1, 5]) == {0: 50.0, 1: 100.0, 5: 0.0}

    def test_different_shapes_and_no_samples_are_refused(self):
        with pytest.raises(ValueError, match=r"predictions \(1,\) for labels \(2,\)"):
            accuracy([1], [1, 2])
        with pytest.raises(ValueError, match="at least one"):
            accuracy([], [])


def test_macro_f1_weighs_rare_classes_as_others():
    # class 0: 3 right of 3, 1 more predicted, F1 = 6/7; class 1: 1 of 2, 1 missed, F1 = 2/3
    assert f1_macro([0, 0, 0, 0, 1], [0, 0, 0, 1, 1]) == pytest.approx(100 * (6 / 7 + 2 / 3) / 2)
    # class 2 is predicted but does not occur: its F1 is 0
    assert f1_macro([0, 2], [0, 0]) == pytest.approx(100 * (2 / 3) / 2)
