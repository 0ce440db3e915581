"""The content of audit.json as tables and notes, worst door first."""

import math
from collections.abc import Mapping
from typing import Any

from .audit_ranking import is_uninformative, rounded
from .audit_words import MODELS, headline, number_text
from .result_tables import Table, align

# What the last column of the table says, in a terminal.
GAP = (
    "Gap: how much more the unlearned model knows of the forgotten data than the retrained model "
    "does through the same door, in points, from unrounded values. In brackets: its 95 % interval. "
    "Below 0: the unlearned model is conspicuously worse on the forgotten data. The lines above "
    "explain the doors."
)
FORGOTTEN = (
    "Forgotten: how much less the unlearned model knows of the forgotten data than the original "
    "does through the same door, in points, from unrounded values. The lines above explain the "
    "doors."
)


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
            number_text(entry[model], entry["unit"]) if model in entry else "-" for model in models
        ]
        rows.append([name, entry["unit"], *values, _gap_cell(entry, compared)])
    return rows


def _rank(entry: dict, compared: bool) -> float:
    value = entry.get("gap" if compared else "forgotten")
    return float("inf") if value is None else rounded(-value if compared else value)


def _gap_cell(entry: dict, compared: bool) -> str:
    value = entry.get("gap" if compared else "forgotten")
    if value is None:
        return "not compared"
    low, high = entry.get("low"), entry.get("high")
    ends = f" [{_signed(low)}, {_signed(high)}]" if compared and low is not None else ""
    return f"{_signed(value)}{ends}{' *' if compared and is_uninformative(entry) else ''}"


def _signed(value: float) -> str:
    # Adding 0 turns -0.0 into 0.0.
    return f"{round(value, 1) + 0:+.1f}"


def door_notes(audit: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(door, what it does) of the measured doors, then (door, why there is no number) of those that
    failed or are unavailable. The first entry explains the mark beside some gaps; splits of which
    the audit took a part come next. Doors that are unavailable for the same reason share an
    entry."""
    doors = audit["doors"]
    measured = {name: entry for name, entry in doors.items() if "unlearned" in entry}
    meanings = [(name, entry["meaning"] + _details(entry)) for name, entry in measured.items()]
    failed = [
        (name, f"FAILED: {entry['failed']}") for name, entry in doors.items() if "failed" in entry
    ]
    reasons: dict[str, list[str]] = {}
    for name, entry in doors.items():
        if "unavailable" in entry:
            reasons.setdefault(entry["unavailable"], []).append(name)
    unavailable = [(", ".join(names), f"unavailable: {why}") for why, names in reasons.items()]
    any_uninformative = any(
        e.get("gap") is not None and is_uninformative(e) for e in doors.values()
    )
    meaning = (
        "even the original knows no more than the retrained model through this door, so it cannot "
        "show forgetting"
    )
    mark = [("*", meaning)] * any_uninformative
    return [*mark, *_part_notes(audit), *meanings, *failed, *unavailable]


def _part_notes(audit: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(split, how many of the run's samples the audit took) where it is not all of them."""
    return [
        (split, f"{count['used']} of the run's {count['of']} samples (--max_samples)")
        for split, count in audit.get("samples", {}).items()
        if count["used"] < count["of"]
    ]


def _details(entry: dict) -> str:
    """What a reader needs besides the values, in parentheses; "" where there is nothing."""
    more = entry.get("more") or {}
    steps = {
        name: "never" if more[name]["steps"] is None else str(more[name]["steps"])
        for name in MODELS
        if "by_step" in more.get(name, {})
    }
    losses = {
        name: _loss_text(more[name]["loss"]) for name in MODELS if "loss" in more.get(name, {})
    }
    penalties = {
        name: f"{more[name]['penalty']:g}" for name in MODELS if "penalty" in more.get(name, {})
    }
    parts = _common_details(entry)
    for what, values in (("steps until back", steps), ("penalty", penalties), ("loss", losses)):
        if values:
            parts.append(f"{what}: {', '.join(map(' '.join, values.items()))}")
    return f" ({'; '.join(parts)})" if parts else ""


def _common_details(entry: dict) -> list[str]:
    """What `more` says of all models alike, such as on how many samples they were measured."""
    more = next(iter((entry.get("more") or {}).values()), {})
    # Every model has the same samples; of the other numbers, `more` has one for each model.
    counts = {part.get("measured_on") for part in (entry.get("more") or {}).values()} - {None}
    split = more.get("split") or entry.get("settings", {}).get("judged_split")
    of_split = f" of {split}" if split else ""
    parts = [f"on {count} samples{of_split}" for count in counts]
    if "pairs" in more:
        parts.append(f"{more['pairs']} pairs")
    elif "forgotten" in more:
        parts.append(f"{more['forgotten']} forgotten, {more['unseen']} unseen samples")
    if more.get("from", "retrained") != "retrained":
        parts.append(f"compared with {more['from']}")
    texts = {
        "prompt_tokens": "{} prompt tokens",
        "language": "language: {}",
        "strangers": "{} strangers",
        "classes": "{} other classes",
        "trained_on": "trained on {} forgotten samples",
        "at_step": "measured at step {}",
    }
    parts += [text.format(more[name]) for name, text in texts.items() if name in more]
    if "steps" in more and "by_step" not in more:
        parts.append(f"after {more['steps']} steps")
    return parts


def _loss_text(loss: float | None) -> str:
    """In audit.json, null stands for a loss that is not finite."""
    return "not finite" if loss is None or not math.isfinite(loss) else f"{loss:.3f}"


def audit_text(audit: Mapping[str, Any]) -> str:
    """The audit for a terminal: what each door is, the table, and at the end the headline."""
    notes = "\n".join(f"{name}: {text}" for name, text in door_notes(audit))
    rows = audit_rows(audit)
    legend = GAP if rows[0][-1].startswith("gap") else FORGOTTEN
    return "\n\n".join([notes, legend, align(rows, markdown=False), *headline(audit)])
