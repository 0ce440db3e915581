"""Neutral labels for a published classifier whose own labels would name who is forgotten."""

import json
from pathlib import Path

from ..files import write_json
from ..privacy.redaction import mentions_any


def make_labels_neutral(folder: Path, hidden: list[str], noun: str) -> None:
    """Replaces the labels in a folder's config.json by speaker_0, speaker_1, ... if one of them
    names somebody. All labels are replaced, because a single neutral label among names would reveal
    who is missing.

    Args:
        folder: what is about to be published; its config.json is overwritten.
        hidden: the names that must not be published.
        noun: what the labels begin with: "speaker".
    """
    path = folder / "config.json"
    if not path.is_file():
        return
    config = json.loads(path.read_text(encoding="utf-8"))
    labels = config.get("id2label") or {}
    if not any(mentions_any(str(label), hidden) for label in labels.values()):
        return
    config["id2label"] = {number: f"{noun}_{number}" for number in labels}
    config["label2id"] = {f"{noun}_{number}": int(number) for number in labels}
    write_json(path, config)
