"""Stopping rules that compare with the retrained model: "forget_wer >= retrained"."""

import re

RETRAINED = r"\bretrained\s*$"


def of_retrained(rule: str | None, gold: str) -> str | None:
    """A rule with 0 in place of `retrained`, to check the rule before that model's value is known.

    Raises:
        ValueError: the rule needs the retrained model, but `gold` is "none".
    """
    if rule is None or not re.search(RETRAINED, rule):
        return rule
    if gold == "none":
        raise _no_retrained_model(rule)
    return re.sub(RETRAINED, "0", rule)


def fill_in_retrained(rule: str | None, retrained: dict[str, dict] | None) -> str | None:
    """A rule with the retrained model's value: "forget_wer >= retrained" -> "forget_wer >= 61.8".

    Args:
        retrained: the retrained model's metrics by split; None without such a model.

    Raises:
        ValueError: the rule needs the retrained model, and there is none, or it has no such
            metric.
    """
    match = re.fullmatch(r"\s*(\w+)_([a-z]+)(.*)\bretrained\s*", rule or "")
    if match is None:
        return rule
    split, metric, comparison = match.groups()
    if retrained is None:
        raise _no_retrained_model(rule)
    if metric not in retrained.get(split, {}):
        known = [f"{name}_{key}" for name, values in retrained.items() for key in values]
        raise ValueError(
            f"the rule {rule!r} names no metric of the retrained model, which are "
            f"{', '.join(known)}"
        )
    return f"{split}_{metric}{comparison}{retrained[split][metric]:.4f}"


def _no_retrained_model(rule: str) -> ValueError:
    return ValueError(
        f"the rule {rule!r} needs the retrained model: set gold to 'train', a folder or a Hub id"
    )
