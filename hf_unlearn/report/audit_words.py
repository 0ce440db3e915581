"""The headline of an audit: what it found, in a few sentences."""

from collections.abc import Mapping
from typing import Any

from .audit_ranking import is_uninformative
from .tasks import TASKS

MODELS = ("original", "unlearned", "retrained")


def headline(audit: Mapping[str, Any]) -> list[str]:
    """What an audit says, in a few sentences; the first one is about the worst door."""
    worst = audit["worst"]
    if worst is None:
        return ["No door could be measured, so this audit says nothing."]
    lines = [_worst_line(worst, with_retrained="gap" in worst) + _others(audit["doors"], worst)]
    if "gap" in worst:
        lines += _further_lines(audit, worst)
    return [*lines, *_samples_line(audit), _count_line(audit["doors"])]


def _others(doors: Mapping[str, dict], worst: dict) -> str:
    """Says how many other doors have the same gap as the worst one."""
    number = "gap" if "gap" in worst else "forgotten"
    same = [name for name, entry in doors.items() if entry.get(number) == worst[number]]
    others = len(same) - 1
    if others < 1:
        return ""
    return (
        " 1 other door has the same gap."
        if others == 1
        else f" {others} other doors have the same gap."
    )


def _samples_line(audit: Mapping[str, Any]) -> list[str]:
    """On which samples models are asked what they recognise; [] where the audit does not say."""
    judged, rates = audit.get("judged"), []
    for entry in audit["doors"].values():
        if entry.get("group") in ("form", "decoding", "relearning") and "unit" in entry:
            rates.append(entry["unit"].removesuffix(" (%)"))
    if not judged or not rates:
        return []
    meaning, _ = TASKS[audit["task"]].splits[judged["split"]]
    rate = rates[0][0].upper() + rates[0][1:]
    because = f", because {judged['why']}" if "why" in judged else ""
    return [
        f"{rate} is measured on {judged['samples']} samples of {judged['split']} ({meaning})"
        f"{because}."
    ]


def _worst_line(worst: dict, with_retrained: bool) -> str:
    if not with_retrained:
        return (
            f"Worst door: {worst['door']} ({worst['meaning']}). {_values(worst)}: the model knows "
            f"{_compared(-worst['forgotten'])} the original. Without a retrained model, it is "
            "unknown how much it should have forgotten."
        )
    gap = worst["gap"]
    if gap <= 0:
        return (
            "Through no door does the unlearned model know more of the forgotten data than the "
            f"retrained model. Worst door: {worst['door']} ({worst['meaning']}). "
            f"{_values(worst)}: it knows {_less(gap)}{_interval(worst)}.{_caveat(worst)}"
        )
    return (
        f"Worst door: {worst['door']} ({worst['meaning']}). {_values(worst)}: the unlearned model "
        f"knows {gap:.1f} points more than the retrained model{_interval(worst)}"
        f"{'' if (worst.get('low') or 0) > 0 else ', which may be chance'}."
        f"{_caveat(worst)}"
    )


def _less(gap: float) -> str:
    return f"{-gap:.1f} points less" if round(gap, 1) else "as much"


def _compared(more: float) -> str:
    """How many points more a model knows than another one."""
    if not round(more, 1):
        return "as much as"
    return f"{abs(more):.1f} points {'more' if more > 0 else 'less'} than"


def _caveat(entry: dict) -> str:
    return (
        " Even the original model knows no more than the retrained model through this door."
        if is_uninformative(entry)
        else ""
    )


def _further_lines(audit: Mapping[str, Any], worst: dict) -> list[str]:
    lines, surest, conspicuous = [], audit["surest"], audit["conspicuous"]
    if surest is None or surest["low"] <= 0:
        lines.append("With so few samples, no gap is clearly above 0.")
    elif surest["door"] != worst["door"]:
        lines.append(
            f"Surest gap: {surest['door']}, {surest['gap']:.1f} points{_interval(surest)}."
        )
    if conspicuous["gap"] < 0 and conspicuous["door"] != worst["door"]:
        lines.append(
            f"Most conspicuous door: {conspicuous['door']} ({conspicuous['meaning']}). "
            f"{_values(conspicuous)}: it knows {-conspicuous['gap']:.1f} points less than the "
            f"retrained model{_interval(conspicuous)}. This also reveals what was forgotten"
            f"{', but may be chance' if (conspicuous.get('high') or 0) >= 0 else ''}."
        )
    return lines


def _values(entry: dict) -> str:
    texts = [
        f"{name} {number_text(entry[name], entry['unit'])}"
        for name in MODELS
        if entry.get(name) is not None
    ]
    unit = entry["unit"][0].upper() + entry["unit"][1:]
    return f"{unit}: {', '.join(texts)}"


def _interval(entry: dict) -> str:
    if entry.get("low") is None:
        return ""
    # Adding 0 turns -0.0 into 0.0.
    low, high = (round(entry[end], 1) + 0 for end in ("low", "high"))
    return f" (95 % interval {low:.1f} to {high:.1f})"


def _count_line(doors: Mapping[str, dict]) -> str:
    measured = sum("unlearned" in entry for entry in doors.values())
    failed = sum("failed" in entry for entry in doors.values())
    unavailable = sum("unavailable" in entry for entry in doors.values())
    line = f"Doors measured: {measured}; unavailable for this run: {unavailable}"
    return f"{line}; FAILED: {failed}." if failed else f"{line}."


def number_text(value: float, unit: str) -> str:
    """As precise as the gap, which is in percent; other units have three digits."""
    return f"{value:.1f}" if unit.endswith("(%)") or abs(value) >= 10 else f"{value:.2f}"
