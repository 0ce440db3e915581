"""The scale of metrics: the project's own are in percent; a user's are on the user's own scale, and
are shown as given."""

from collections.abc import Callable, Iterable

from transformers.utils import logging

logger = logging.get_logger(__name__)

PERCENT, GIVEN = "percent", "as given"  # of "scale" in results.json

# Words in the names of metrics that are shares of a whole: f1_macro, top5_accuracy. An error rate
# can exceed the whole.
ERROR_RATES = {"wer", "cer", "mer", "ter"}
SHARES = {
    *(
        "accuracy",
        "acc",
        "precision",
        "recall",
        "f1",
        "em",
        "exact",
        "match",
        "auc",
        "auroc",
        "map",
        "iou",
        "bleu",
    ),
    *("rouge", "rouge1", "rouge2", "rougel", "rougelsum"),
}
# Times the length of the reference: no error rate is that large as a fraction, unless the model has
# collapsed.
MANY = 10


def in_percent(compute_metrics: Callable) -> Callable:
    """Marks a `compute_metrics` all of whose rates are in percent."""
    compute_metrics.scale = PERCENT
    return compute_metrics


def scale_of(compute_metrics: Callable | None) -> str:
    return getattr(compute_metrics, "scale", GIVEN)


def as_given(value: float) -> str:
    """A number of unknown scale with three significant digits, a count as it is: 0.612, 61.2,
    1534."""
    if isinstance(value, int):
        return str(value)
    return f"{value:#.3g}".rstrip(".") if abs(value) < 1000 else f"{value:.0f}"


class ScaleCheck:
    """Warns once of each rule whose number is on another scale than the values of its metric.

    Args:
        rules: `trainer.rules.Rule`s; those that compare with another metric have no number.
        scale: of the metrics, where the trainer's compute_metrics tells it.
    """

    def __init__(self, rules: Iterable, scale: str):
        self._open = [
            rule for rule in rules if not isinstance(rule.value, str) and _is_rate(rule.metric)
        ]
        if scale == PERCENT:
            for rule in self._open:
                if _is_fraction(rule):
                    _warn(rule, "is in percent", 100 * rule.value)
            self._open = []

    def look(self, metrics: dict) -> None:
        """At the metrics of a check; the first values that are not all zero tell their scale."""
        for rule in [rule for rule in self._open if rule.metric in metrics]:
            kind = rule.metric.rpartition("_")[2]
            highest = max(
                abs(value) for name, value in metrics.items() if name.endswith(f"_{kind}")
            )
            if highest == 0:  # 0 % and 0.0 look the same
                continue
            self._open.remove(rule)
            found = f"is {as_given(metrics[rule.metric])} at the first check, which looks like"
            if highest <= 1 < abs(rule.value):
                _warn(rule, f"{found} a share of 1", rule.value / 100)
            elif (
                highest > (MANY if _words(rule.metric) & ERROR_RATES else 1)
                and 0 < abs(rule.value) < 1
            ):
                _warn(rule, f"{found} percent", 100 * rule.value)


def _words(metric: str) -> set[str]:
    return set(metric.lower().split("_"))


def _is_rate(metric: str) -> bool:
    return bool(_words(metric) & (SHARES | ERROR_RATES)) and not metric.endswith("_loss")


def _is_fraction(rule) -> bool:
    """0.05 in place of 5; and >= 1, which would be next to nothing in percent (<= 1 can well be
    meant)."""
    return 0 < abs(rule.value) < 1 or rule.value == 1 and rule.comparison.startswith(">")


def _warn(rule, found: str, instead: float) -> None:
    logger.warning(
        f"The rule '{rule}' seems to be on another scale than its metric: {rule.metric} {found}. "
        "Unless you "
        f"mean just that, write '{rule.metric} {rule.comparison} {instead:g}'."
    )
