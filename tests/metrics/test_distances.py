"""Distances, pairs, ranks among others and the informed attack, against values computed by
hand."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from hf_unlearn.metrics import (
    earth_movers_distance,
    informed_scores,
    matched_pairs,
    separation,
    share_above,
)
from hf_unlearn.metrics.membership import svc_attacks_on, svc_taken_for_members


def test_earth_movers_distance_is_the_mean_way():
    # 0 -> 2 and 1 -> 3
    assert earth_movers_distance([0, 1], [3, 2]) == 2
    assert earth_movers_distance([1, 1, 1], [1]) == 0
    # half of the mass moves by 4
    assert earth_movers_distance([0], [0, 4]) == 2


def test_pairs_are_equally_long_and_differ_least():
    ours, theirs = matched_pairs([1.0, 2.0, 9.0], [2.1, 1.1, 5.0, 1.05], tolerance=0.5)
    pairs = {(int(a), int(b)) for a, b in zip(ours, theirs)}
    # 9 is near none
    assert pairs == {(0, 3), (1, 0)}
    assert [len(part) for part in matched_pairs([1.0], [3.0], tolerance=0.5)] == [0, 0]
    # 1 and 4 take no partner from 2 and 3, although all four would differ less in sum.
    ours, theirs = matched_pairs([1, 2, 3, 4], [2.1, 2.95, 9, 10], tolerance=0.25)
    assert {(int(a), int(b)) for a, b in zip(ours, theirs)} == {(1, 0), (2, 1)}


def test_share_above_counts_ties_by_half():
    assert share_above(2, [1, 2, 3, 4]) == 62.5
    assert share_above(0, [1, 2]) == 100 and share_above(5, [1, 2]) == 0


def test_separation_is_the_area_under_the_curve():
    assert separation([3, 1], [2, 1]) == 100 * (1 + 1 + 0 + 0.5) / 4
    rng = np.random.default_rng(0)
    members, others = rng.integers(0, 9, 40), rng.integers(0, 8, 30)
    scores, truth = np.concatenate([members, others]), np.repeat([1, 0], [40, 30])
    assert separation(members, others) == pytest.approx(100 * roc_auc_score(truth, scores))


def test_the_informed_attack_never_learns_from_the_questioned_speaker():
    # Members have low losses, except those of c, whose own samples would teach the opposite.
    examples = np.array([[0.1], [0.2], [0.9], [0.8], [0.9], [0.1]])
    is_member = [1, 1, 0, 0, 1, 0]
    owners = ["a", "a", "b", "b", "c", "c"]
    low, high = informed_scores(examples, is_member, owners, [[0.15], [0.85]], ["c", "c"])
    # Each tree may draw one kind only, but hardly any does.
    assert low > 0.9 and high < 0.1
    with pytest.raises(ValueError, match="without the samples of a"):
        informed_scores(examples[:4], is_member[:4], owners[:4], [[0.5]], ["a"])


def test_shares_of_the_svc_attacks_are_those_of_its_decisions():
    rng = np.random.default_rng(0)
    groups = [{"loss": rng.normal(m, 1, 20), "entropy": rng.normal(m, 1, 20)} for m in (0, 3, 2)]
    taken = svc_taken_for_members(*groups)["entropy"]
    assert svc_attacks_on(*groups) == {"svc_entropy": 100 * (~taken).mean()}
    # The forgotten samples lie nearer to the unseen ones.
    assert taken.shape == (20,) and taken.mean() < 0.5
