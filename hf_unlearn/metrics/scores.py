"""Scores that combine forgetting and retaining in one number: UIS (lower is better), AUS and GUM
(higher is better)."""

import math


def unlearning_impact_score(
    *, original_test: float, test: float, forget: float, whole_class: bool
) -> float:
    """Unlearning impact score, UIS (Poppi et al., "Multi-Class Unlearning for Image
    Classification"). Lower is better, 0 is perfect.

        single images:  (|O_t - U_t| / O_t + |O_t - U_u| / O_t) / 2
        a whole class:  (|O_t - U_t| / O_t + U_u / O_t) / 2

    Forgotten single images should be recognised as well as unseen ones, a forgotten class not at
    all.

    Args:
        original_test: O_t, test accuracy of the original model. All accuracies are in the same
            unit, percent or fractions.
        test: U_t, test accuracy of the unlearned model.
        forget: U_u, accuracy of the unlearned model on the forget set.
        whole_class: whether a whole class was forgotten.

    Raises:
        ValueError: original_test is not positive.
    """
    if original_test <= 0:
        raise ValueError(
            f"the original test accuracy is {original_test}, but must be positive, because UIS is "
            "relative to it: test on samples that the original model knows"
        )
    lost = abs(original_test - test)
    remaining = forget if whole_class else abs(original_test - forget)
    return (lost + remaining) / (2 * original_test)


def adaptive_unlearning_score(
    *, original_test: float, test: float, forget: float, whole_class: bool
) -> float:
    """Adaptive unlearning score, AUS (DUCK, Cotogni et al., arXiv 2312.02052). Higher is better.

        AUS = (1 - (A_or - A_t)) / (1 + D)

    with D = |A_f - A_t| for single images and |A_f| for a whole class.

    Args:
        original_test: A_or, test accuracy (%) of the original model.
        test: A_t, test accuracy (%) of the unlearned model.
        forget: A_f, accuracy (%) of the unlearned model on the forget set.
        whole_class: whether a whole class was forgotten.
    """
    original_test, test, forget = (value / 100 for value in (original_test, test, forget))
    distance = abs(forget) if whole_class else abs(forget - test)
    return (1 - (original_test - test)) / (1 + distance)


def global_unlearning_metric(
    *,
    f1: float,
    gold_f1: float,
    attack: float,
    original_attack: float,
    gold_attack: float,
    seconds: float,
    gold_seconds: float,
) -> float:
    """Global unlearning metric, GUM (UnSLU-BENCH, Koudounas et al., arXiv 2505.15700). Higher is
    better; it lies in [0, 1].

        GUM = 3 U E T / (U E + U T + E T), the harmonic mean of
        U (utility)    = 1 - |F1 - F1_gold|
        E (efficacy)   = 1 - ((MIA - MIA_gold) / (MIA_orig - MIA_gold))^2
        T (efficiency) = 1 - log(t + 1) / log(t_gold + 1)

    Each is cut to [0, 1], and the GUM is 0 where one of them is 0: so it is for the original model
    (E = 0), for the retrained one (T = 0), and for a model that the attack finds easier than the
    original. T depends on the seconds themselves, so times can be compared only on one machine.

    These are the formulas of the authors' code (`GUM` in result_analysis.ipynb of
    github.com/koudounasalkis/UnSLU-BENCH, with alfa = beta = 1), and they give the published values
    of SLURP* and SpeechMASSIVE. One case differs: where the attack succeeds less often on the
    original model than on the retrained one, their E is 0. Here E then measures the distance to the
    retrained model in the same way, as their later variant CGUM does, whose U and E differ.

    Args:
        f1, gold_f1: macro F1 (%) on test data, of the unlearned and of the retrained model.
        attack, original_attack, gold_attack: success of one membership attack on the unlearned, the
            original and the retrained model, in any unit. The paper's is an accuracy.
        seconds, gold_seconds: what unlearning and retraining took.
    """
    before = abs(original_attack - gold_attack)
    # An attack that gains nothing from the original model leaves nothing to forget.
    ratio = abs(attack - gold_attack) / before if before else math.inf
    parts = [
        1 - abs(f1 - gold_f1) / 100,
        1 - ratio**2,
        1 - math.log1p(seconds) / math.log1p(gold_seconds) if gold_seconds > 0 else 0.0,
    ]
    return 3 / sum(1 / part for part in parts) if min(parts) > 0 else 0.0
