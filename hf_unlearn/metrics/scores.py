"""Scores that combine forgetting and retaining in one number: UIS (lower is better) and AUS (higher
is better)."""


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
            "relative to it"
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
