"""A stopping rule as a user states it: a condition on a metric, such as "forget_wer >= 25"."""

import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

OPERATORS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
# In place of a number: the retrained model's value, which recipes fill in, and the metric's value
# before the first step, which the check of the original model fills in.
RETRAINED, ORIGINAL = "retrained", "original"
# Splits and metrics may have any name: test-clean_wer, forget_f1 (macro), forget_rouge/1.
RULE = re.compile(r"\s*([^<>=]+?)\s*(>=|<=|>|<)\s*([^<>=]+?)\s*")
# Splits of earlier requests. A rule that names none by its number applies to the worst.
EARLIER, NUMBERED = "earlier", re.compile(r"earlier_\d+")
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)
# "original + 2": a name, and what is added to its value. Spaces tell it from a name like top-5.
SUM = re.compile(r"(.+?)\s+([-+])\s+(\d\S*|\.\d\S*)")


@dataclass(frozen=True)
class Rule:
    """A condition on one metric of one split, such as `forget_wer >= 25`,
    `forget_accuracy <= test_accuracy` or `test_wer > original + 2`.

    Attributes:
        metric: <split>_<metric>.
        comparison: one of >=, <=, > and <.
        value: a number, the name of another metric, or RETRAINED or ORIGINAL, which `with_value`
            replaces.
        offset: what is added to the value of a name.
    """

    metric: str
    comparison: str
    value: float | str
    offset: float = 0.0

    @classmethod
    def parse(cls, text: str) -> "Rule":
        """Reads a rule. Raises ValueError if it is not of the form above."""
        match = RULE.fullmatch(text)
        if match and NUMBER.fullmatch(match[3]):
            return cls(match[1], match[2], float(match[3]))
        name, offset = _split_sum(match[3]) if match else ("", 0.0)
        # A metric has a split before it, or it is a word that is replaced by a number.
        if match and ("_" in name or name in (RETRAINED, ORIGINAL)):
            return cls(match[1], match[2], name, offset)
        raise ValueError(
            f"cannot read the rule {text!r}: write <split>_<metric> >= <number>, as in "
            "'forget_wer >= 25'. The number can also be another <split>_<metric>, or "
            "'original', the value before the first step; '+ <number>' may follow, as in "
            "'test_wer > original + 2'"
        )

    @property
    def metrics(self) -> list[str]:
        """The metrics that the rule needs, one or two."""
        named = isinstance(self.value, str) and self.value != ORIGINAL
        return [self.metric, self.value] if named else [self.metric]

    def margin(self, metrics: Mapping[str, float]) -> float:
        """The metric minus the value that it is compared with."""
        value = metrics[self.value] if isinstance(self.value, str) else self.value
        return metrics[self.metric] - value - self.offset

    def with_value(self, value: float) -> "Rule":
        """The rule with a number in place of RETRAINED or ORIGINAL."""
        return Rule(self.metric, self.comparison, value + self.offset)

    def holds(self, metrics: Mapping[str, float]) -> bool:
        return OPERATORS[self.comparison](self.margin(metrics), 0)

    def better(self, value: float, than: float) -> bool:
        """Whether one value lies further in the direction of the rule than another."""
        return value > than if self.comparison.startswith(">") else value < than

    def splits(self, names: Iterable[str]) -> set[str]:
        """The splits that the rule's metrics belong to.

        Args:
            names: the splits of eval_dataset.

        Raises:
            ValueError: a metric belongs to none of them.
        """
        if self.value == RETRAINED:
            raise ValueError(
                f"the rule {str(self)!r} names the retrained model, which only recipes measure "
                "(gold: ...): write the number in place of the word"
            )
        names = list(names)
        return {split for metric in self.metrics for split in splits_of(metric, names)}

    def __str__(self) -> str:
        value = self.value if isinstance(self.value, str) else f"{self.value:.7g}"
        sign = "-" if self.offset < 0 else "+"
        offset = f" {sign} {abs(self.offset):.7g}" if self.offset else ""
        return f"{self.metric} {self.comparison} {value}{offset}"


def _split_sum(text: str) -> tuple[str, float]:
    """The name and the number in a text such as "original + 2"; any other text, and 0."""
    added = SUM.fullmatch(text)
    if not added or not NUMBER.fullmatch(added[3]):
        return text, 0.0
    return added[1], float(added[2] + added[3])


def splits_of(metric: str, names: Sequence[str]) -> list[str]:
    """The splits of a metric <split>_<metric>: the longest fitting name, if there are several; for
    earlier_<metric>, those of all earlier requests.

    Raises:
        ValueError: none fits.
    """
    if fitting := [name for name in names if metric.startswith(f"{name}_")]:
        return [max(fitting, key=len)]
    of_earlier = metric.startswith(f"{EARLIER}_")
    numbered = [name for name in names if NUMBERED.fullmatch(name)]
    if of_earlier and numbered and not NUMBERED.match(metric):
        return numbered
    more = "; this data has no samples of earlier requests" if of_earlier else ""
    raise ValueError(
        f"the rule on {metric!r} names no split of eval_dataset: those are "
        f"{', '.join(names) or 'none'}{more}"
    )


def metric_in(metric: str, split: str) -> str:
    """The metric in <split>_<metric>, and in earlier_<metric> for a split of an earlier request."""
    if metric.startswith(f"{split}_"):
        return metric.removeprefix(f"{split}_")
    return metric.removeprefix(f"{EARLIER}_")


def with_worst(metrics: Mapping[str, float], rules: Iterable[Rule]) -> dict[str, float]:
    """The metrics of a check, with those of rules on all earlier requests (`earlier_wer`): the
    lowest value for a rule with < or <=, else the highest."""
    all_metrics = dict(metrics)
    for rule in rules:
        worst = min if rule.comparison.startswith("<") else max
        for wanted in rule.metrics:
            name = metric_in(wanted, EARLIER)
            pattern = re.compile(rf"{NUMBERED.pattern}_{re.escape(name)}")
            values = [value for key, value in metrics.items() if pattern.fullmatch(key)]
            if wanted == f"{EARLIER}_{name}" and wanted not in metrics and values:
                all_metrics[wanted] = worst(values)
    return all_metrics
