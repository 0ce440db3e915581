"""Scores that put forgetting and retaining into one number: UIS (lower is better) and AUS (higher
is better)."""


def unlearning_impact_score(
    *, original_test: float, test: float, forget: float, whole_class: bool
) -> float:
    """UIS, lower is better, 0 is perfect (Poppi et al., "Multi-Class Unlearning for Image
    Classification").

        single images:  (|O_t - U_t| / O_t + |O_t - U_u| / O_t) / 2   (forgotten images should be
        like unseen ones) a whole class:  (|O_t - U_t| / O_t +  U_u        / O_t) / 2   (none of it
        should be known)

    Args:
        original_test: O_t, test accuracy of the original model.
        test, forget: U_t and U_u, accuracy of the unlearned model on the test and on the unlearn
            set. All in the same unit, so percent or shares.
        whole_class: which of the two.

    Raises:
        ValueError: original_test is not positive.
    """
    if original_test <= 0:
        raise ValueError(
            f"the original test accuracy is {original_test}: UIS is relative to it, so it must be "
            "positive"
        )
    lost = abs(original_test - test)
    left = forget if whole_class else abs(original_test - forget)
    return (lost + left) / (2 * original_test)


def adaptive_unlearning_score(
    *, original_test: float, test: float, forget: float, whole_class: bool
) -> float:
    """AUS = (1 - (A_or - A_t)) / (1 + D), higher is better (DUCK, Cotogni et al., arXiv
    2312.02052).

    D = |A_f - A_t| for single images, |A_f| for a whole class.

    Args:
        original_test, test, forget: A_or, A_t and A_f, in percent.
        whole_class: which of the two.
    """
    original_test, test, forget = (value / 100 for value in (original_test, test, forget))
    distance = abs(forget) if whole_class else abs(forget - test)
    return (1 - (original_test - test)) / (1 + distance)
