"""Which doors of an audit its headline names, and the numbers that rules name."""

from collections.abc import Iterable, Mapping
from typing import Any

# Gaps are equal if they agree to so many decimals: the rest is rounding in floating point.
DECIMALS = 6


def deciding_doors(doors: Mapping[str, dict]) -> dict[str, dict | None]:
    """The doors that the headline names, each with its name under `door`; None if there is no such
    door.

    Returns:
        worst: the door with the largest gap. Without a retrained model, the door through which
            the unlearned model forgot least; attacks count only if there are no other doors,
            because an attack may fail on the original, too. Of doors with the same gap, the one
            with the highest lower end of its interval.
        surest: the door whose interval has the highest lower end: its gap is least likely to be
            chance. Of several such doors, the one with the largest gap.
        conspicuous: the door with the lowest gap. A door through which the original itself knows
            no more than the retrained model counts here if its interval is below 0. Of doors with
            the same gap, the one with the lowest upper end of its interval.
    """
    named = [{"door": name, **entry} for name, entry in doors.items()]
    with_gap = [entry for entry in named if entry.get("gap") is not None]
    # If all doors are uninformative, the sentence about the worst one says so.
    compared = list(filter(is_ranked, with_gap)) or with_gap
    candidates = [entry for entry in with_gap if entry in compared or _is_clearly_worse(entry)]
    sure = [entry for entry in compared if entry.get("low") is not None]
    worst = max(compared, key=lambda entry: _ends(entry, "low", float("-inf")), default=None)
    if not any(entry.get("retrained") is not None for entry in named):
        worst = min(comparable(named), key=lambda entry: rounded(entry["forgotten"]), default=None)
    return {
        "worst": worst,
        "surest": max(sure, key=lambda entry: _ends(entry, "low", 0.0)[::-1], default=None),
        "conspicuous": min(
            candidates, key=lambda entry: _ends(entry, "high", float("inf")), default=None
        ),
    }


def rounded(value: float) -> float:
    """A value without the noise of its last digits. Adding 0 turns -0.0 into 0.0."""
    return round(value, DECIMALS) + 0


def _ends(entry: dict, end: str, missing: float) -> tuple[float, float]:
    """(gap, end of its interval), to order doors by."""
    value = entry.get(end)
    return rounded(entry["gap"]), missing if value is None else rounded(value)


def clearly_below_0(doors: Mapping[str, dict]) -> list[dict]:
    """The doors whose whole interval is below 0, each with its name under `door`; the clearest
    first, which is the one with the lowest upper end."""
    below = [
        {"door": name, **entry}
        for name, entry in doors.items()
        if entry.get("high") is not None and rounded(entry["high"]) < 0
    ]
    return sorted(below, key=lambda entry: rounded(entry["high"]))


def comparable(entries: Iterable[dict]) -> list[dict]:
    """The doors through which unlearned and original model can be compared without the retrained
    one: all but attacks, if there are others."""
    measured = [entry for entry in entries if entry.get("forgotten") is not None]
    return [entry for entry in measured if not _is_attack(entry)] or measured


def is_ranked(entry: dict) -> bool:
    """Whether a door's gap is ranked. An attack that fails on the original says nothing about the
    unlearned model either. Through another uninformative door the unlearned model may still know
    more than the retrained model, and then its gap counts."""
    return not is_uninformative(entry) or (not _is_attack(entry) and entry["gap"] > 0)


def _is_clearly_worse(entry: dict) -> bool:
    """Whether the unlearned model clearly recognises less through a door than the retrained model.
    This is conspicuous, whatever the original knew."""
    return not _is_attack(entry) and (entry.get("high") or 0) < 0


def _is_attack(entry: dict) -> bool:
    return entry.get("group") in ("attack", "standing out")


def is_uninformative(entry: dict) -> bool:
    """Whether the original itself knows no more through a door than the retrained model does, so
    that the door cannot show what was forgotten."""
    return entry["forgotten"] + entry["gap"] <= 0


def rule_numbers(audit: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an audit that a rule such as "worst_gap > 5" may name. Those of a comparison
    with the retrained model are missing without one."""
    doors, worst = audit["doors"], audit["worst"]
    numbers = {f"{name}_gap": entry.get("gap") for name, entry in doors.items()}
    numbers |= {f"{name}_forgotten": entry.get("forgotten") for name, entry in doors.items()}
    if worst:
        numbers["worst_gap"] = worst.get("gap")
        kept = [entry["forgotten"] for entry in comparable(doors.values())]
        numbers["least_forgotten"] = min(kept, default=None)
    if audit["surest"]:
        numbers["surest_gap"] = audit["surest"]["low"]
    if audit["conspicuous"]:
        numbers["conspicuous_gap"] = -audit["conspicuous"]["gap"]
    return {name: value for name, value in numbers.items() if value is not None}
