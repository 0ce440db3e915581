"""The content of audit.json in words and tables, worst door first."""

from collections.abc import Mapping
from typing import Any

from .result_tables import Table, align
from .tasks import TASKS

MODELS = ("original", "unlearned", "retrained")


def deciding_doors(doors: Mapping[str, dict]) -> dict[str, dict | None]:
    """The doors that the headline names, each with its name under `door`; None if there is no such
    door.

    Returns:
        worst: the door with the largest gap. Without a retrained model, the door through which
            the unlearned model forgot least.
        surest: the door whose interval has the highest lower end: its gap is least likely to be
            chance.
        conspicuous: the door with the lowest gap.
    """
    named = [{"door": name, **entry} for name, entry in doors.items()]
    with_gap = [entry for entry in named if entry.get("gap") is not None]
    # If all doors are uninformative, the sentence about the worst one says so.
    compared = list(filter(is_ranked, with_gap)) or with_gap
    measured = [entry for entry in named if entry.get("forgotten") is not None]
    sure = [entry for entry in compared if entry.get("low") is not None]
    worst = max(compared, key=lambda entry: entry["gap"], default=None)
    if not any(entry.get("retrained") is not None for entry in named):
        worst = min(measured, key=lambda entry: entry["forgotten"], default=None)
    return {
        "worst": worst,
        "surest": max(sure, key=lambda entry: entry["low"], default=None),
        "conspicuous": min(compared, key=lambda entry: entry["gap"], default=None),
    }


def is_ranked(entry: dict) -> bool:
    """Whether a door's gap is ranked. An attack that fails on the original says nothing about the
    unlearned model either. Through another uninformative door the unlearned model may still know
    more than the retrained model, and then its gap counts."""
    attacked = entry.get("group") in ("attack", "standing out")
    return not is_uninformative(entry) or (not attacked and entry["gap"] > 0)


def rule_numbers(audit: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an audit that a rule such as "worst_gap > 5" may name. Those of a comparison
    with the retrained model are missing without one."""
    doors, worst = audit["doors"], audit["worst"]
    found = {f"{name}_gap": entry.get("gap") for name, entry in doors.items()}
    found |= {f"{name}_forgotten": entry.get("forgotten") for name, entry in doors.items()}
    if worst:
        found["worst_gap"] = worst.get("gap")
        kept = [entry["forgotten"] for entry in doors.values() if "forgotten" in entry]
        found["least_forgotten"] = min(kept, default=None)
    if audit["surest"]:
        found["surest_gap"] = audit["surest"]["low"]
    if audit["conspicuous"]:
        found["conspicuous_gap"] = -audit["conspicuous"]["gap"]
    return {name: value for name, value in found.items() if value is not None}


# ---- words ---------------------------------------------------------------------------------------


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
    return [f"{rate} is measured on {judged['samples']} samples of {judged['split']} ({meaning})."]


def _worst_line(worst: dict, with_retrained: bool) -> str:
    if not with_retrained:
        return (
            f"Worst door: {worst['door']} ({worst['meaning']}). {_values(worst)}: the model knows "
            f"{worst['forgotten']:.1f} points less than the original. Without a retrained "
            "model, it is unknown how much it should have forgotten."
        )
    gap = worst["gap"]
    if gap <= 0:
        return (
            "The unlearned model does not know more of what was forgotten than the retrained model "
            f"through any door. Worst door: {worst['door']} ({worst['meaning']}). "
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
            f"retrained model{_interval(conspicuous)}. This also reveals what was forgotten."
        )
    return lines


def _values(entry: dict) -> str:
    known = [
        f"{name} {_number(entry[name], entry['unit'])}"
        for name in MODELS
        if entry.get(name) is not None
    ]
    return f"{entry['unit']}: {', '.join(known)}"


def _interval(entry: dict) -> str:
    if entry.get("low") is None:
        return ""
    return f" (95 % interval {entry['low']:.1f} to {entry['high']:.1f})"


def _count_line(doors: Mapping[str, dict]) -> str:
    measured = sum("unlearned" in entry for entry in doors.values())
    failed = sum("failed" in entry for entry in doors.values())
    closed = sum("closed" in entry for entry in doors.values())
    line = f"Doors measured: {measured}; not available for this run: {closed}"
    return f"{line}; FAILED: {failed}." if failed else f"{line}."


# ---- tables --------------------------------------------------------------------------------------


def audit_rows(audit: Mapping[str, Any]) -> Table:
    """The measured doors, the largest gap first; doors that are not compared come last."""
    measured = {name: entry for name, entry in audit["doors"].items() if "unlearned" in entry}
    models = [name for name in MODELS if any(e.get(name) is not None for e in measured.values())]
    compared = "retrained" in models
    order = sorted(measured, key=lambda name: _rank(measured[name], compared))
    rows = [["Door", "measured", *models, "gap (points)" if compared else "forgotten (points)"]]
    for name in order:
        entry = measured[name]
        values = [
            _number(entry[model], entry["unit"]) if model in entry else "-" for model in models
        ]
        rows.append([name, entry["unit"], *values, _gap_cell(entry, compared)])
    return rows


def _rank(entry: dict, compared: bool) -> float:
    value = entry.get("gap" if compared else "forgotten")
    return float("inf") if value is None else -value if compared else value


def _gap_cell(entry: dict, compared: bool) -> str:
    value = entry.get("gap" if compared else "forgotten")
    if value is None:
        return "not compared"
    low, high = entry.get("low"), entry.get("high")
    ends = f" [{low:+.1f}, {high:+.1f}]" if compared and low is not None else ""
    # Adding 0 turns -0.0 into 0.0.
    return f"{round(value, 1) + 0:+.1f}{ends}{' *' if compared and is_uninformative(entry) else ''}"


def is_uninformative(entry: dict) -> bool:
    """Whether the original itself knows no more through a door than the retrained model does, so
    that the door cannot show what was forgotten."""
    return entry["forgotten"] + entry["gap"] <= 0


def _number(value: float, unit: str) -> str:
    """As precise as the gap, which is in percent; other units have three digits."""
    return f"{value:.1f}" if unit.endswith("(%)") or abs(value) >= 10 else f"{value:.2f}"


def door_notes(audit: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(door, what it does) of the measured doors, then (door, why there is no number) of the
    others. The first entry explains the mark beside some gaps. Doors that have no number for the
    same reason share an entry."""
    doors = audit["doors"]
    measured = {name: entry for name, entry in doors.items() if "unlearned" in entry}
    meanings = [(name, entry["meaning"] + _steps(entry)) for name, entry in measured.items()]
    failed = [
        (name, f"FAILED: {entry['failed']}") for name, entry in doors.items() if "failed" in entry
    ]
    # Doors that are closed for the same reason share a line.
    reasons: dict[str, list[str]] = {}
    for name, entry in doors.items():
        if "closed" in entry:
            reasons.setdefault(entry["closed"], []).append(name)
    closed = [(", ".join(names), f"not measured: {why}") for why, names in reasons.items()]
    any_uninformative = any(
        e.get("gap") is not None and is_uninformative(e) for e in doors.values()
    )
    meaning = (
        "even the original knows no more than the retrained model through this door, so it cannot "
        "show forgetting"
    )
    mark = [("*", meaning)] * any_uninformative
    return [*mark, *meanings, *failed, *closed]


def _steps(entry: dict) -> str:
    """After how many steps each model was back, for relearning; else ""."""
    more = entry.get("more") or {}
    steps = {name: more[name]["steps"] for name in MODELS if "by_step" in more.get(name, {})}
    told = ", ".join(
        f"{name} {'never' if count is None else count}" for name, count in steps.items()
    )
    return f" (steps until back: {told})" if steps else ""


def audit_text(audit: Mapping[str, Any]) -> str:
    """The audit for a terminal: what each door is, the table, and at the end the headline."""
    notes = "\n".join(f"{name}: {text}" for name, text in door_notes(audit))
    return "\n\n".join([notes, align(audit_rows(audit), markdown=False), *headline(audit)])
