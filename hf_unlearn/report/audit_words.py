"""The headline of an audit: what it found, in a few sentences."""

from collections.abc import Mapping
from typing import Any

from .audit_ranking import clearly_below_0, is_ranked, is_uninformative, rounded
from .tasks import TASKS

MODELS = ("original", "unlearned", "retrained")


def headline(audit: Mapping[str, Any]) -> list[str]:
    """What an audit says, in a few sentences; the first one is about the worst door."""
    worst = audit["worst"]
    if worst is None:
        return ["No door could be measured, so this audit says nothing."]
    lines = [_worst_line(worst, audit["doors"]) + _others(audit["doors"], worst)]
    if "gap" in worst:
        lines += _further_lines(audit, worst)
    return [*lines, *_samples_line(audit), _count_line(audit["doors"])]


def _others(doors: Mapping[str, dict], named: dict) -> str:
    """Says how many other doors have the same gap as one that is named."""
    number = "gap" if "gap" in named else "forgotten"
    values = [entry[number] for entry in doors.values() if entry.get(number) is not None]
    others = sum(rounded(value) == rounded(named[number]) for value in values) - 1
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
    because = f", because {judged['why']}" if "why" in judged else ""
    return [
        f"Unless a door's note says otherwise, {rates[0]} is measured on {judged['samples']} "
        f"samples of {judged['split']} ({meaning}){because}."
    ]


def _worst_line(worst: dict, doors: Mapping[str, dict]) -> str:
    if "gap" not in worst:
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
            f"{_values(worst)}: {_knows(gap)}{_interval(worst)}.{_caveat(worst)}"
        )
    return (
        f"Worst door: {worst['door']} ({worst['meaning']}). {_values(worst)}: {_knows(gap)}"
        f"{_interval(worst)}{_chance(worst, doors)}.{_caveat(worst)}"
    )


def _chance(worst: dict, doors: Mapping[str, dict]) -> str:
    """Says that the largest gap may be chance, unless its interval is above 0."""
    if (worst.get("low") or 0) > 0:
        return ""
    count = sum(entry.get("gap") is not None and is_ranked(entry) for entry in doors.values())
    return f", which may be chance{f' (the largest of {count} gaps)' if count > 1 else ''}"


def _knows(gap: float) -> str:
    return f"the unlearned model knows {_compared(gap)} the retrained model"


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
    lines = [
        _surest_line(audit["surest"], worst),
        _below_line(audit["doors"]),
        _conspicuous_line(audit, worst),
        _distance_line(audit["doors"]),
    ]
    return [line for line in lines if line]


def _surest_line(surest: dict | None, worst: dict) -> str:
    """The gap that is least likely to be chance; "" where the worst door's is, and is above 0."""
    if surest is None:
        return "No gap has an interval, so each of them may be chance."
    other = surest["door"] != worst["door"]
    text = f"{surest['door']}, {surest['gap']:.1f} points{_interval(surest)}."
    if surest["low"] <= 0:
        return f"No gap is clearly above 0.{f' The surest is {text}' if other else ''}"
    return f"Surest gap: {text}" if other else ""


def _below_line(doors: Mapping[str, dict]) -> str:
    """How many gaps are clearly below 0, and the clearest of them; "" where there is none."""
    below = clearly_below_0(doors)
    if not below:
        return ""
    count = sum(entry.get("gap") is not None for entry in doors.values())
    clearest, names = below[0], ", ".join(entry["door"] for entry in below)
    lie = "1 of {} gaps lies" if len(below) == 1 else f"{len(below)} of {{}} gaps lie"
    which = "This is" if len(below) == 1 else "The clearest is"
    return (
        f"{lie.format(count)} clearly below 0: {names}. {which} a gap of {clearest['gap']:.1f} "
        f"points{_interval(clearest)} through {clearest['door']}. {_values(clearest)}."
    )


def _conspicuous_line(audit: Mapping[str, Any], worst: dict) -> str:
    """The lowest gap, if it is below 0 and not the only one."""
    conspicuous = audit["conspicuous"]
    if rounded(conspicuous["gap"]) >= 0 or conspicuous["door"] == worst["door"]:
        return ""
    chance = ", which may be chance" if (conspicuous.get("high") or 0) >= 0 else ""
    return (
        f"Most conspicuous door: {conspicuous['door']} ({conspicuous['meaning']}). "
        f"{_values(conspicuous)}: {_knows(conspicuous['gap'])}"
        f"{_interval(conspicuous)}{chance}.{_others(audit['doors'], conspicuous)} Being worse than "
        "a model that never had the samples reveals what was forgotten."
    )


def _distance_line(doors: Mapping[str, dict]) -> str:
    """Says if unlearning has led away from the retrained model; "" where it has not."""
    entry = doors.get("distance_to_retrained", {})
    if "unlearned" not in entry or "original" not in entry:
        return ""
    before, after = (number_text(entry[name], entry["unit"]) for name in ("original", "unlearned"))
    if entry["unlearned"] <= entry["original"] or before == after:
        return ""
    return (
        "By its losses on the forgotten samples, the unlearned model is farther from the retrained "
        f"model ({after} {entry['unit']}) than the original was ({before})."
    )


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
