"""What a run has achieved, in sentences: its stopping rule, and whether forgetting overshot."""

from collections.abc import Mapping
from typing import Any

from .tasks import Task, earlier_number

# The splits of data that are to be forgotten.
FORGOTTEN = ("forget", "forget_test")

# {model: {split: {metric: value}}}; None for a model that was not evaluated
Models = Mapping[str, Mapping[str, Mapping[str, Any]] | None]


def with_origin(rule: str | None, retrained: Mapping[str, Mapping] | None) -> str | None:
    """A rule as text, which says if its number is the retrained model's value."""
    words = (rule or "").split()
    for split, values in (retrained or {}).items():
        for name, value in values.items():
            if len(words) == 3 and words[0] == f"{split}_{name}" and words[2] == _as_in_rule(value):
                return f"{words[0]} {words[1]} {value:.4g} (the retrained model's value)"
    return rule


def _as_in_rule(value: Any) -> str | None:
    return f"{value:.7g}" if isinstance(value, int | float) else None


def verdict(models: Models, task: Task, stopping: Mapping[str, Any] | None) -> list[str]:
    """Sentences on the first metric: forgotten data against the retrained model, and unseen data
    against the original one; empty if the run was not evaluated."""
    metric, name = next(iter(task.metrics.items()))
    if (stopping or {}).get("restored_step") == 0:
        return ["Nothing was unlearned: the saved model is the original one."]
    sentences = []
    for split in (*FORGOTTEN, "test"):
        reference = "original" if split == "test" else "retrained"
        before, after = (_value(models, model, split, metric) for model in (reference, "unlearned"))
        if before is not None and after is not None:
            sentences.append(
                f"{name} of {split}: {task.text(metric, after)}, where the {reference} model has "
                f"{task.text(metric, before)}."
            )
    return [*sentences, *overshot(models, task), *_still_forgotten(models, task)]


def _still_forgotten(models: Models, task: Task) -> list[str]:
    """One sentence for each earlier request whose samples were evaluated again."""
    metric, name = next(iter(task.metrics.items()))
    sentences = []
    for split in task.in_order(models.get("unlearned") or {}):
        before, after = (
            _value(models, model, split, metric) for model in ("original", "unlearned")
        )
        if earlier_number(split) and before is not None and after is not None:
            sentences.append(
                f"{name} on the data of request {earlier_number(split)}: "
                f"{task.text(metric, after)} ({task.text(metric, before)} before this request)."
            )
    return sentences


def overshot(models: Models, task: Task) -> list[str]:
    """A warning for each split of forgotten data on which the unlearned model is worse than the
    retrained one, beyond the intervals where there are any."""
    metric, name = next(iter(task.metrics.items()))
    warnings = []
    for split in FORGOTTEN:
        wish = task.wanted(split, metric)
        sign = {"up": 1, "down": -1}.get(wish)
        near, far = ("low", "high") if wish == "up" else ("high", "low")
        after, reference = (
            _value(models, model, split, f"{metric}_{end}", metric)
            for model, end in (("unlearned", near), ("retrained", far))
        )
        if sign is None or after is None or reference is None or sign * (after - reference) <= 0:
            continue
        shown = (_value(models, model, split, metric) for model in ("unlearned", "retrained"))
        unlearned, retrained = (task.text(metric, value) for value in shown)
        warnings.append(
            f"{split} overshot: {name} {unlearned} against {retrained} of the retrained model. A "
            "model that is worse on forgotten data than one that never met them reveals what was "
            "forgotten."
        )
    return warnings


def _value(models: Models, model: str, split: str, *metrics: str) -> float | None:
    """The first of these metrics that is there."""
    values = (models.get(model) or {}).get(split) or {}
    return next((values[name] for name in metrics if values.get(name) is not None), None)
