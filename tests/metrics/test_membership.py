"""Membership attacks, compared with values computed by hand and on data with a known answer."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from hf_unlearn.metrics import ATTACKS, lira_scores, loss_attack, svc_attacks
from hf_unlearn.metrics.membership import attack_rates, scaled_confidence
from hf_unlearn.metrics.sample_features import cross_entropy, ctc_losses, features

LOGITS = np.log([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]])
LABELS = np.array([0, 1])


def test_loss_auc_counts_the_pairs_in_which_the_forgotten_has_the_lower_loss():
    # 0.1 is lower than all three; 0.6 is lower than 1.0 and equal to 0.6, which counts half.
    assert loss_attack([0.1, 0.6], [0.5, 0.6, 1.0])["loss_auc"] == pytest.approx((3 + 1 + 0.5) / 6)


def test_loss_rates_at_low_false_positives():
    # A threshold of 10 gives 1 % false positives.
    unseen = np.arange(1000.0)
    rates = loss_attack([-1.0, 0.5, 9.5, 10.5], unseen)
    assert rates["loss_tpr_at_1_fpr"] == 75.0 and rates["loss_tpr_at_0.1_fpr"] == 50.0


def test_rates_that_few_unseen_samples_cannot_show_are_none():
    """One of 4 unseen samples is 25 %. A threshold above 3.0 gives no false positive, one of 3.0
    gives one."""
    few = attack_rates("lira", [5.0, 3.5, 2.5, 0.0, -1.0], [3.0, 1.0, 0.5, 0.2])
    assert few["lira_tpr_at_1_fpr"] is None and few["lira_tpr_at_0.1_fpr"] is None
    assert few["lira_tpr_at_lowest_fpr"] == 60.0 and few["lira_auc"] == pytest.approx(
        (4 + 4 + 3) / 20
    )
    unseen = np.arange(700.0)
    # 1 % of 700 samples are the 7 above 692.5.
    some = attack_rates("loss", [692.5, 693.5, 700.0], unseen)
    assert some["loss_tpr_at_1_fpr"] == 100.0 and some["loss_tpr_at_0.1_fpr"] is None
    assert some["loss_tpr_at_lowest_fpr"] == pytest.approx(100 / 3)


def test_auc_of_equal_groups_and_of_separate_groups():
    alike = loss_attack([1.0, 2.0], [1.0, 2.0])
    assert alike["loss_auc"] == 0.5
    assert loss_attack([0.0, 0.1], [1.0, 2.0])["loss_auc"] == 1.0
    apart = loss_attack([3.0, 4.0], [1.0, 2.0])
    assert apart["loss_auc"] == apart["loss_tpr_at_lowest_fpr"] == 0.0


def test_missing_and_infinite_losses_are_refused():
    with pytest.raises(ValueError, match="no unseen samples"):
        loss_attack([1.0], [])
    with pytest.raises(ValueError, match="forgotten samples are not all finite"):
        loss_attack([math.nan], [1.0])


def test_features_equal_values_computed_by_hand():
    computed = features(LOGITS, LABELS)
    assert computed["correctness"].ravel().tolist() == [1, 0]
    assert computed["confidence"].ravel() == pytest.approx([0.7, 0.25])
    entropy = [
        -(0.7 * math.log(0.7) + 0.2 * math.log(0.2) + 0.1 * math.log(0.1)),
        1.5 * math.log(2),
    ]
    assert computed["entropy"].ravel() == pytest.approx(entropy)
    # Song & Mittal, equation 2
    modified = -0.3 * math.log(0.7) - 0.2 * math.log(0.8) - 0.1 * math.log(0.9)
    assert computed["modified_entropy"][0] == pytest.approx(modified)
    assert computed["probability"] == pytest.approx(np.exp(LOGITS))


def test_features_of_a_text_are_the_means_over_its_own_tokens():
    padded = np.stack([LOGITS, LOGITS[::-1]]), np.array([[0, 1], [1, -100]])
    alone, together = features(LOGITS, LABELS), features(*padded)
    assert set(alone) - set(together) == {"probability"}
    for name, values in together.items():
        assert values == pytest.approx([alone[name].mean(), alone[name][1]]), name


def test_loss_and_confidence_by_hand():
    losses = cross_entropy(LOGITS + 3, LABELS)
    assert losses == pytest.approx([-math.log(0.7), -math.log(0.25)])
    assert scaled_confidence(losses) == pytest.approx([math.log(0.7 / 0.3), math.log(0.25 / 0.75)])


def test_confidence_is_precise_for_almost_certain_predictions():
    """log(p / (1 - p)) is the difference of the logits, though p rounds to 1."""
    assert scaled_confidence(cross_entropy([[50.0, 0.0], [0.0, 60.0]], [0, 0])) == pytest.approx(
        [50.0, -60.0]
    )


def group(confidence: float, n: int = 40, seed: int = 0):
    rng, labels = np.random.default_rng(seed), np.arange(n) % 3
    return confidence * np.eye(3)[labels] + 0.1 * rng.normal(size=(n, 3)), labels


def test_svc_attacks_classify_forgotten_samples_by_their_logits():
    members, unseen = group(8.0), group(1.0, n=60, seed=1)
    rates = svc_attacks(members, unseen, group(8.0, seed=2))
    others = svc_attacks(members, unseen, group(1.0, seed=3))
    assert set(rates) == {name for name in ATTACKS if name.startswith("svc_")}
    for name in ("svc_confidence", "svc_entropy", "svc_modified_entropy", "svc_probability"):
        assert rates[name] <= 5 and others[name] >= 95, name


def test_an_attack_on_correctness_separates_right_from_wrong():
    wrong = group(8.0)[0], (group(8.0)[1] + 1) % 3
    assert svc_attacks(group(8.0), wrong, wrong)["svc_correctness"] == 100
    assert svc_attacks(group(8.0), wrong, group(8.0))["svc_correctness"] == 0


def test_lira_equals_values_computed_by_hand():
    shadows = np.array([[2.0, 5.0], [4.0, 3.0], [0.0, 1.0], [0.0, -1.0]])
    trained = np.array([[1, 1], [1, 1], [0, 0], [0, 0]], dtype=bool)
    # Models without the samples: means 0 and 0, deviations 0, 0, 1 and -1.
    out = 1 / math.sqrt(2)
    # Models with them: means 3 and 4, deviations -1, 1, 1 and -1.
    online = norm.logpdf([2.0, 0.0], [3.0, 4.0], 1.0) - norm.logpdf([2.0, 0.0], [0.0, 0.0], out)
    confidences = np.array([2.0, 0.0])
    assert lira_scores(confidences, shadows, trained, online=True) == pytest.approx(online)
    assert lira_scores(confidences, shadows, trained, online=False) == pytest.approx(
        norm.logcdf([2.0, 0.0], 0, out)
    )


def test_lira_needs_models_on_both_sides():
    trained = np.array([[True, True], [True, False]])
    with pytest.raises(ValueError, match="left out sample 0"):
        lira_scores(np.zeros(2), np.zeros((2, 2)), trained, online=False)
    with pytest.raises(ValueError, match="was trained on sample 1"):
        lira_scores(
            np.zeros(2), np.zeros((2, 2)), np.array([[True, False], [False, False]]), online=True
        )


def test_ctc_losses_are_those_of_utterances_alone():
    """The reference adds up all alignments of two labels to four frames."""
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 4, 3), torch.tensor([[1, 2], [1, -100]])
    probabilities = logits.double().softmax(-1).numpy()

    def collapsed(path: tuple) -> list[int]:
        return [token for token, _ in itertools.groupby(path) if token]

    wanted = []
    for frames, label in zip(probabilities, ([1, 2], [1])):
        paths = itertools.product(range(3), repeat=4)
        total = sum(frames[range(4), path].prod() for path in paths if collapsed(path) == label)
        wanted.append(-np.log(total) / len(label))
    np.testing.assert_allclose(ctc_losses(logits, labels, blank=0), wanted, rtol=1e-5)
