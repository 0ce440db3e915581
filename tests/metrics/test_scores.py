"""UIS and AUS, compared with values computed by hand."""

import pytest

from hf_unlearn.metrics import adaptive_unlearning_score, unlearning_impact_score


@pytest.mark.parametrize(
    ("whole_class", "uis"),
    [(True, (0.1 + 16 / 80) / 2), (False, (0.1 + 64 / 80) / 2)],  # |80 - 72| / 80 = 0.1
)
def test_uis(whole_class, uis):
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
def test_aus(whole_class, aus):
    score = adaptive_unlearning_score(
        original_test=80.0, test=72.0, forget=16.0, whole_class=whole_class
    )
    assert score == pytest.approx(aus)
