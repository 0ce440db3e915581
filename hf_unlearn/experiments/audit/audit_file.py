"""audit.json: what an audit depends on, and which results of an earlier audit are still valid."""

import datetime
import logging
from pathlib import Path
from typing import Any

from ...files import json_digest, read_json
from ...privacy.carried_salt import salted
from ...privacy.redaction import salt_of
from ...report.audit_ranking import deciding_doors
from ...report.weights import model_digest
from ..models.training import rows_digest
from ..running.measurement_cache import code_digest, described
from .audited_run import AuditedRun
from .door import Door, Subject
from .doors import DOORS
from .judged_split import choose_judged_split
from .settings import AuditSettings

logger = logging.getLogger(__name__)

# The data's options that no door depends on: the rows are hashed instead.
IGNORED_DATA_OPTIONS = {"dataset"}


def load_or_start(path: Path, run: AuditedRun, subjects: dict[str, Subject]) -> dict:
    """The content of audit.json: that of an earlier audit of the same models and data, without the
    doors whose settings have changed; otherwise a new one."""
    parts, earlier = dependencies(run, subjects), read_json(path)
    today = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")
    content = {
        "task": run.recipe.task,
        "date": today,
        "made_of": parts,
        "max_samples": subjects["unlearned"].settings.max_samples,
        "samples": count_samples(run, subjects),
    }
    if isinstance(earlier, dict) and earlier.get("made_of") == parts:
        content["judged"] = judged = earlier_split(subjects, earlier["judged"])
        settings = subjects["unlearned"].settings
        doors = valid_doors(path, earlier["doors"], settings, judged["split"])
    else:
        if path.is_file():
            logger.warning(
                f"{path} is an audit of other models or data, or of another version of the doors: "
                "starting a new one."
            )
        content["judged"], doors = choose_judged_split(subjects), {}
    return {**content, "doors": doors, **deciding_doors(doors)}


def count_samples(run: AuditedRun, subjects: dict[str, Subject]) -> dict[str, dict[str, int]]:
    """By split: how many samples the audit uses, and of how many that the run evaluated."""
    evaluated = run.recipe.splits.evaluation(run.recipe.data.max_eval_samples)
    used = subjects["unlearned"].examiner.splits
    return {name: {"used": len(part), "of": len(evaluated[name])} for name, part in used.items()}


def earlier_split(subjects: dict[str, Subject], judged: dict[str, Any]) -> dict[str, Any]:
    """The split that an earlier audit of the same models has chosen, unless another is asked
    for."""
    same = judged.get("asked") == subjects["unlearned"].settings.judged_split
    return judged if same else choose_judged_split(subjects)


def valid_doors(
    path: Path, doors: dict[str, dict], settings: AuditSettings, judged_split: str
) -> dict[str, dict]:
    """The doors of an earlier audit whose settings are as they were, and those that could not be
    measured."""
    entries = {name: entry for name, entry in doors.items() if name in DOORS}
    changed = [
        name
        for name, entry in entries.items()
        if is_done(entry)
        and entry["settings"] != settings_of_door(DOORS[name], settings, judged_split)
    ]
    kept = {name: entry for name, entry in entries.items() if name not in changed}
    done = sum(map(is_done, kept.values()))
    logger.warning(f"{path} holds {done} doors of this audit: continuing after them.")
    if changed:
        logger.warning(f"Removed from it, since their settings have changed: {', '.join(changed)}.")
    return kept


def settings_of_door(door: Door, settings: AuditSettings, judged_split: str) -> dict[str, Any]:
    """The settings that a door depends on, with the judged split that was chosen."""
    values = {**vars(settings), "judged_split": judged_split}
    return values if door.settings is None else {name: values[name] for name in door.settings}


def is_done(entry: dict | None) -> bool:
    """Whether a door was measured. One that was unavailable or failed is tried again."""
    return entry is not None and "unlearned" in entry


def dependencies(run: AuditedRun, subjects: dict[str, Subject]) -> dict[str, Any]:
    """A hash of each thing that all doors depend on, by its name. Those of the data are salted, so
    that nobody can test whose data was forgotten."""
    recipe, rows = run.recipe, subjects["unlearned"].examiner.splits
    options = recipe.options.of_measurement()
    data = {k: v for k, v in vars(recipe.data).items() if k not in IGNORED_DATA_OPTIONS}
    trainer = {"seed": recipe.args.seed, "batch": recipe.args.per_device_eval_batch_size}
    salt = salt_of(run.folder)
    return {
        "models": {
            name: json_digest([model_digest(subject.model), described(subject.model)])
            for name, subject in subjects.items()
        },
        "data": salted(json_digest({n: rows_digest(part) for n, part in rows.items()}), salt),
        "code": code_digest(),
        "configuration": salted(json_digest([recipe.task, options, data, trainer]), salt),
    }
