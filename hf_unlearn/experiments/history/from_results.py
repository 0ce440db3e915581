"""What earlier requests made a model forget, read from its results.json."""

import re
from collections.abc import Mapping

from transformers.utils import logging

from ...files import model_file, read_json
from ...report.file_names import RESULTS
from ...report.tasks import TASKS

logger = logging.get_logger(__name__)

# Column of the data -> key in results.json. `redact` knows the key that names persons.
KEYS = {"speaker": "forget_speakers", "class": "forget_classes", "id": "forget_ids"}


def forgotten_names(model: str, *, warn: bool = True) -> dict[str, list[str]]:
    """The names that earlier requests made a model forget, by the column of the data.

    Published results name speakers by pseudonyms only. These cannot be found in the data, so there
    is a warning.

    Args:
        model: folder, Hub id, or "train" for a model that is yet to be trained.
        warn: False where a ledger and its salt tell who the pseudonyms are.

    Returns:
        {"speaker", "class" or "id": names}; {} where nothing is known.
    """
    results = {} if model == "train" else results_of(model)
    data, task = results.get("data") or {}, TASKS.get(results.get("task", "speakers"))
    earlier = results.get("forgotten_before") or {}
    names_by_column = {
        column: list(map(str, earlier[key])) for column, key in KEYS.items() if key in earlier
    }
    if task and "unlearned" in results:
        if task.forgotten != task.group:
            column, names = "id", data.get("forget_ids")
        else:
            column, names = task.group, (data.get(task.groups) or {}).get("forget")
        names_by_column[column] = sorted({*names_by_column.get(column, []), *map(str, names or [])})
    pseudonyms = [
        name for name in names_by_column.get("speaker", []) if re.fullmatch("[0-9a-f]{8}", name)
    ]
    if pseudonyms and warn:
        logger.warning_once(
            f"Earlier requests made {model} forget {len(pseudonyms)} speakers, whom its "
            "results.json names by pseudonyms only. If they are in this data they would be "
            "retained: name the other speakers in retain_speakers."
        )
    return {column: names for column, names in names_by_column.items() if names}


def as_results(names: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """What `forgotten_names` returns, under the keys of results.json."""
    return {KEYS[column]: column_names for column, column_names in names.items()}


def results_of(model: str) -> dict:
    """The results.json of a model, or of the run that a checkpoint belongs to; {} where there is
    none that can be read."""
    path = model_file(model, RESULTS)
    results = read_json(path) if path else {}
    return results if isinstance(results, dict) else {}
