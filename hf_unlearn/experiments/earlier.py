"""What a model has been made to forget before: earlier requests, as its results.json tells of
them."""

import json
import re
from pathlib import Path

from transformers.utils import cached_file, logging

from ..report.tasks import TASKS

logger = logging.get_logger(__name__)

# Column of the data -> key in results.json, one that `redact` knows where it names persons.
KEYS = {"speaker": "forget_speakers", "class": "forget_classes", "id": "forget_ids"}

QUIET = {
    "_raise_exceptions_for_missing_entries": False,
    "_raise_exceptions_for_connection_errors": False,
    "_raise_exceptions_for_gated_repo": False,
}


def forgotten_before(model: str) -> dict[str, list[str]]:
    """By the column of the data, "speaker", "class" or "id": what a folder or model of the Hub was
    made to forget ("train": nothing).

    One warning where the results name them by pseudonyms only, as published ones do.
    """
    results = {} if model == "train" else _results_of(model)
    data, task = results.get("data") or {}, TASKS.get(results.get("task", "speakers"))
    earlier = results.get("forgotten_before") or {}
    found = {by: list(map(str, earlier[key])) for by, key in KEYS.items() if key in earlier}
    if task and "unlearned" in results:
        by = "id" if task.forgotten == "image" else task.group
        names = (
            data.get("forget_ids") if by == "id" else (data.get(task.groups) or {}).get("forget")
        )
        found[by] = sorted({*found.get(by, []), *map(str, names or [])})
    hidden = [name for name in found.get("speaker", []) if re.fullmatch("[0-9a-f]{8}", name)]
    if hidden:
        logger.warning_once(
            f"{model} was made to forget {len(hidden)} speakers before, whom its results.json "
            "names by pseudonyms only: where "
            "they are in this data they would be retained, so name the others in retain_speakers."
        )
    return {by: names for by, names in found.items() if names}


def as_results(before: dict[str, list[str]]) -> dict[str, list[str]]:
    """What `forgotten_before` has found, as results.json keeps it for the next request."""
    return {KEYS[by]: names for by, names in before.items()}


def _results_of(model: str) -> dict:
    """Those beside a model, or beside a checkpoint's folder; {} where there are none that can be
    read."""
    folder = Path(model)
    if folder.is_dir():
        folders = [folder, folder.parent] if folder.name.startswith("checkpoint-") else [folder]
        path = next(
            (place / "results.json" for place in folders if (place / "results.json").is_file()),
            None,
        )
    else:
        try:
            path = cached_file(model, "results.json", **QUIET)
        except (OSError, ValueError):
            path = None  # loading the model says what is wrong with its name
    try:
        results = json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
    except (OSError, ValueError):
        return {}
    return results if isinstance(results, dict) else {}
