"""UIS, AUS and GUM, compared with values computed by hand and with published ones."""

import math

import pytest

from hf_unlearn.metrics import (
    adaptive_unlearning_score,
    global_unlearning_metric,
    unlearning_impact_score,
)


@pytest.mark.parametrize(
    ("whole_class", "uis"),
    # |80 - 72| / 80 = 0.1
    [(True, (0.1 + 16 / 80) / 2), (False, (0.1 + 64 / 80) / 2)],
)
def test_uis_equals_values_computed_by_hand(whole_class, uis):
    score = unlearning_impact_score(
        original_test=80.0, test=72.0, forget=16.0, whole_class=whole_class
    )
    assert score == pytest.approx(uis)


def test_perfect_unlearning_has_uis_0():
    assert unlearning_impact_score(original_test=80, test=80, forget=0, whole_class=True) == 0
    assert unlearning_impact_score(original_test=80, test=80, forget=80, whole_class=False) == 0
    with pytest.raises(ValueError, match="must be positive"):
        unlearning_impact_score(original_test=0, test=80, forget=80, whole_class=False)


@pytest.mark.parametrize(("whole_class", "aus"), [(True, 0.92 / 1.16), (False, 0.92 / 1.56)])
def test_aus_equals_values_computed_by_hand(whole_class, aus):
    score = adaptive_unlearning_score(
        original_test=80.0, test=72.0, forget=16.0, whole_class=whole_class
    )
    assert score == pytest.approx(aus)


def gum(f1, attack, seconds, gold=(79.5, 0.493, 30_000.0), original_attack=0.622):
    return global_unlearning_metric(
        f1=f1,
        gold_f1=gold[0],
        attack=attack,
        original_attack=original_attack,
        gold_attack=gold[1],
        seconds=seconds,
        gold_seconds=gold[2],
    )


def test_gum_equals_values_computed_by_hand():
    # U = 0.9, E = 1 - 0.5^2 = 0.75, T = 1 - log(10) / log(100) = 0.5
    score = gum(69.5, 0.5, 9.0, gold=(79.5, 0.4, 99.0), original_attack=0.6)
    assert score == pytest.approx(3 / (1 / 0.9 + 1 / 0.75 + 2))


@pytest.mark.parametrize(
    ("f1", "attack", "speedup", "published"),
    # UnSLU-BENCH, SpeechMASSIVE (DE), XLS-R 128: FT, NG, NG+, UNSIR, BT, BT-L, SCRUB. The times
    # are not published, only the speedups: retraining took about 30,800 s.
    [
        (49.8, 0.543, 34.34, 0.588),
        (55.0, 0.562, 1078, 0.797),
        (54.0, 0.487, 16.89, 0.522),
        (56.5, 0.616, 27.46, 0.197),
        (58.4, 0.582, 20.02, 0.489),
        (58.4, 0.576, 24.87, 0.523),
        (58.4, 0.600, 26.86, 0.429),
    ],
)
def test_gum_gives_the_published_values(f1, attack, speedup, published):
    retraining = (56.6, 0.513, 30_800.0)
    assert gum(f1, attack, 30_800 / speedup, retraining, 0.621) == pytest.approx(
        published, abs=0.005
    )


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"attack": 0.622}, "as easily attacked as the original"),
        ({"attack": 0.3}, "further from the retrained model than the original"),
        ({"seconds": 30_000.0}, "as slow as retraining"),
        ({"gold": (79.5, 0.622, 30_000.0)}, "an attack that gains nothing from the original"),
        ({"gold": (79.5, 0.493, 0.0)}, "retraining that took no time"),
    ],
)
def test_gum_is_0_where_nothing_was_gained(changed, why):
    assert gum(**{"f1": 79.5, "attack": 0.493, "seconds": 60.0, **changed}) == 0, why
    assert 0 < gum(79.5, 0.493, 60.0) < 1 and math.isfinite(gum(0.1, 0.6, 1e4))
