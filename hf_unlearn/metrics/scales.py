"""The scale of metrics: the project's own are in percent, a user's are shown as they are given."""

import re
from collections.abc import Iterable
from typing import Protocol

from transformers.utils import logging

logger = logging.get_logger(__name__)

# Values of "scale" in results.json.
PERCENT, GIVEN = "percent", "as given"

# Words in the names of metrics: test_wer, f1_macro, top5_accuracy.
ERROR_RATES = {"wer", "cer", "mer", "ter"}
SHARES = {
    "acc",
    "accuracy",
    "auc",
    "auroc",
    "bleu",
    "em",
    "exact",
    "f1",
    "iou",
    "map",
    "match",
    "precision",
    "recall",
    "rouge",
    "rouge1",
    "rouge2",
    "rougel",
    "rougelsum",
}
# A share is at most 1. An error rate can exceed 1, but as a fraction it stays below this, unless
# the model has collapsed.
LARGEST_SHARE, LARGEST_ERROR_RATE = 1, 10


class HasThreshold(Protocol):
    """What `ScaleCheck` needs of a stopping rule, such as forget_accuracy <= 5."""

    metric: str
    comparison: str
    value: float | str


def as_given(value: float) -> str:
    """Formats a number of unknown scale with three significant digits, and an integer as it is:
    0.612, 61.2, 1534."""
    if isinstance(value, int):
        return str(value)
    return f"{value:#.3g}".rstrip(".") if abs(value) < 1000 else f"{value:.0f}"


class ScaleCheck:
    """Warns once about each rule whose number is on another scale than the values of its metric.

    With PERCENT it warns at once. Otherwise the values of the first checks show the scale.

    Args:
        rules: rules to check. Rules that compare two metrics are left out, because they have no
            number.
        scale: scale of the metrics, PERCENT or GIVEN.
    """

    def __init__(self, rules: Iterable[HasThreshold], scale: str):
        self._unchecked = [
            rule for rule in rules if not isinstance(rule.value, str) and _is_rate(rule.metric)
        ]
        if scale == PERCENT:
            for rule in self._unchecked:
                if _is_fraction(rule):
                    _warn(rule, "is in percent", 100 * rule.value)
            self._unchecked = []

    def look(self, metrics: dict[str, float]) -> None:
        """Compares the rules with the metrics of a check.

        A rule waits for the next check while the values of its kind may be on either scale: all
        are 0, or an error rate is between 1 and 10.
        """
        for rule in [rule for rule in self._unchecked if rule.metric in metrics]:
            kind = _kind(rule.metric)
            highest = max(abs(v) for name, v in metrics.items() if _kind(name) == kind)
            is_error_rate = bool(_words(rule.metric) & ERROR_RATES)
            largest_fraction = LARGEST_ERROR_RATE if is_error_rate else LARGEST_SHARE
            if 0 < highest <= 1 or highest > largest_fraction:
                self._unchecked.remove(rule)
                _compare(rule, metrics[rule.metric], highest)


def _compare(rule: HasThreshold, value: float, highest: float) -> None:
    """Warns if a rule is on another scale than the value of its metric.

    Args:
        highest: the largest value of this kind of metric over all splits.
    """
    observed = f"is {as_given(value)} at a check, which looks like"
    if highest <= 1 < abs(rule.value):
        _warn(rule, f"{observed} a share of 1", rule.value / 100)
    elif highest > 1 and 0 < abs(rule.value) < 1:
        _warn(rule, f"{observed} percent", 100 * rule.value)


def _words(metric: str) -> set[str]:
    return set(re.split(r"[\W_]+", metric.lower()))


def _kind(metric: str) -> str:
    """The metric's name from its last word that names a rate: forget_f1_macro -> f1_macro."""
    words = list(re.finditer(r"[^\W_]+", metric.lower()))
    rates = [word.start() for word in words if word[0] in SHARES | ERROR_RATES]
    return metric.lower()[rates[-1] :] if rates else metric


def _is_rate(metric: str) -> bool:
    return bool(_words(metric) & (SHARES | ERROR_RATES)) and not metric.endswith("_loss")


def _is_fraction(rule: HasThreshold) -> bool:
    """Whether a number looks like a fraction where percent are expected, such as 0.05 for 5.

    ">= 1" counts as one, because 1 % is hardly meant. "<= 1" does not, because it may well be.
    """
    return 0 < abs(rule.value) < 1 or rule.value == 1 and rule.comparison.startswith(">")


def _warn(rule: HasThreshold, observed: str, suggestion: float) -> None:
    logger.warning(
        f"The rule '{rule}' seems to be on another scale than its metric: {rule.metric} "
        f"{observed}. Unless you mean exactly that, write "
        f"'{rule.metric} {rule.comparison} {suggestion:g}'."
    )
