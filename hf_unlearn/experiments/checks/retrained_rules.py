"""Stopping rules that compare with the retrained model: "forget_wer >= retrained"."""

from collections.abc import Mapping
from dataclasses import replace

from ...trainer.stopping.rule import RETRAINED, Rule


def of_retrained(rule: str | None, gold: str) -> str | None:
    """A rule with 0 in place of `retrained`, to check the rule before that model's value is known.

    Raises:
        ValueError: the rule needs the retrained model, but `gold` is "none".
    """
    if not rule or Rule.parse(rule).value != RETRAINED:
        return rule
    if gold == "none":
        raise _no_retrained_model(rule)
    return str(replace(Rule.parse(rule), value=0.0))


def fill_in_retrained(rule: str | None, retrained: Mapping[str, dict] | None) -> str | None:
    """A rule with the retrained model's value: "forget_wer >= retrained" -> "forget_wer >= 61.8".

    Args:
        retrained: the retrained model's metrics by split; None without such a model.

    Raises:
        ValueError: the rule needs the retrained model, and there is none, or it has no such
            metric.
    """
    if not rule or (parsed := Rule.parse(rule)).value != RETRAINED:
        return rule
    if retrained is None:
        raise _no_retrained_model(rule)
    known = {
        f"{split}_{name}": value
        for split, values in retrained.items()
        for name, value in values.items()
    }
    if parsed.metric not in known:
        raise ValueError(
            f"the rule {rule!r} names no metric of the retrained model, which are "
            f"{', '.join(known)}"
        )
    return str(replace(parsed, value=known[parsed.metric]))


def _no_retrained_model(rule: str) -> ValueError:
    return ValueError(
        f"the rule {rule!r} needs the retrained model: set gold to 'train', a folder or a Hub id"
    )
