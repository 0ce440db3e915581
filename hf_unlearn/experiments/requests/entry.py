"""The ledger entry of a run, and its way into the output folder."""

import sys
from collections.abc import Mapping
from pathlib import Path

from transformers import TrainerState
from transformers.utils import logging

from ...data.splits import Splits
from ...privacy.carried_salt import LONG, carry_salt, salt_name, salted
from ...privacy.redaction import pseudonym, salt_of
from ...report.file_names import LEDGER
from ...report.ledger import UNVERIFIED, Entry, write_ledger
from ...report.listed_settings import settings_of
from ...report.results import Metrics, Results
from ...report.tasks import Task, task_of
from ...report.weights import weights_digest
from ...trainer import UnlearnTrainer, step_digests
from ..history.earlier import RequestHistory
from ..models.training import rows_digest
from ..recipe import Recipe

# The splits that the weights depend on in every run.
COMPARED = ("forget", "retain")

logger = logging.get_logger(__name__)


def begin_entry(recipe: Recipe, original: str) -> str | None:
    """Called before unlearning, on the main process: carries the salt along, and compares the
    weights with the end of the model's ledger. One warning says so where they differ.

    Args:
        original: folder or Hub id of the model that the run starts from.

    Returns:
        The digest of the weights that the run starts from.
    """
    earlier, folder = recipe.earlier, recipe.args.output_dir
    if earlier.salt is not None:
        carry_salt(earlier.salt, folder)
    before = weights_digest(original)
    if earlier.entries and earlier.entries[-1]["weights_after"] != before:
        logger.warning(
            f"The weights in {recipe.options.model} are not those that its {LEDGER} ends with "
            f"(request {len(earlier.entries)}): they were changed after that request. The card "
            "will say so."
        )
    return before


def keep_entries(recipe: Recipe) -> None:
    """Called before the model is saved: writes the earlier requests into the output folder, where
    saving would remove the ledger of another run."""
    if recipe.earlier.entries:
        write_ledger(recipe.args.output_dir, recipe.earlier.entries)


def finish_entry(
    recipe: Recipe, trainer: UnlearnTrainer, results: Results, before: str | None
) -> None:
    """Called after the model and results.json were saved, on the main process: adds the run to the
    ledger.

    Args:
        before: what `begin_entry` has returned.
    """
    folder, earlier = Path(recipe.args.output_dir), recipe.earlier.entries
    entry = make_entry(recipe, trainer.state, results, salt_of(folder))
    entry |= {"weights_before": before, "weights_after": weights_digest(folder)}
    if trainer.record.resumed_from and earlier and _is_same_run(earlier[-1], entry):
        # It was killed after it had written its entry, and started from its own output.
        entry |= {name: earlier[-1][name] for name in ("request", "weights_before")}
        entry["earlier"].pop(str(entry["request"]), None)
        earlier = earlier[:-1]
    write_ledger(folder, [*earlier, entry])


def make_entry(recipe: Recipe, state: TrainerState, results: Results, salt: str) -> Entry:
    """An entry without the digests of the weights before and after."""
    described, task = recipe.splits.describe(), task_of(results)
    column, names = forgotten_now(described, task)
    environment, stopped = results.environment or {}, results.stopping or {}
    ids = sorted(pseudonym(name, salt, LONG) for name in names)
    kept = ("step", "reason", "restored_step")
    return {
        "request": len(recipe.earlier.entries) + 1,
        "date": environment.get("date"),
        "column": column,
        "ids": ids,
        "salt": salt_name(salt),
        "samples": {name: described.get(task.units, {}).get(name) for name in COMPARED},
        "data": data_digests(recipe.splits, salt),
        "settings": settings_of(results),
        "seed": results.seed,
        "stopped": {name: stopped[name] for name in kept if name in stopped},
        "processes": recipe.args.world_size,
        "versions": package_versions(environment),
        "machine": {
            name: environment.get(name) for name in ("device", "platform", "cpu_threads", "commit")
        },
        "steps": step_digests(state),
        "earlier": checked_again(recipe.earlier, recipe.splits, results, ids),
    }


def forgotten_now(described: Mapping, task: Task) -> tuple[str, list[str]]:
    """The column of the data that says what is forgotten, and the names in it.

    Args:
        described: what the splits say of themselves.
    """
    if task.forgotten != task.group:
        return "id", described.get("forget_ids", [])
    return task.group, (described.get(task.groups) or {}).get("forget", [])


def data_digests(splits: Splits, salt: str) -> dict[str, str]:
    """Salted digests of the forget set, the retain set and the sets of earlier requests."""
    parts = splits.parts()
    compared = [*(name for name in COMPARED if name in parts), *splits.earlier]
    return {name: salted(rows_digest(parts[name]), salt) for name in compared}


def package_versions(environment: Mapping) -> dict[str, str]:
    """The versions that a run depends on."""
    return {
        "hf_unlearn": sys.modules[__package__.partition(".")[0]].__version__,
        "python": environment.get("python"),
        **(environment.get("packages") or {}),
    }


def checked_again(
    earlier: RequestHistory, splits: Splits, results: Results, ids: list[str]
) -> dict[str, dict | str]:
    """What this run measured of each earlier request, by the request's number: the task's first
    metric before and after, or "unverified" where the data has nothing that the request named."""
    metric = next(iter(task_of(results).metrics))
    requests = {request.number: request for request in earlier.requests_of_ledger()}
    checks: dict[str, dict | str] = {}
    for entry in earlier.entries:
        number, split = entry["request"], f"earlier_{entry['request']}"
        after, before = (
            _value(model, split, metric) for model in (results.unlearned, results.original)
        )
        if set(entry["ids"]) <= set(ids):
            checks[str(number)] = "forgotten again by this request"
        elif after is None or before is None:
            checks[str(number)] = UNVERIFIED
        else:
            names = set(splits.earlier[split][requests[number].column][:])
            checks[str(number)] = {
                "metric": metric,
                "before": before,
                "after": after,
                "samples": results.models()["unlearned"][split].get("samples"),
                "found": len(names),
                "of": len(entry["ids"]),
            }
    return checks


def _value(splits: Metrics | None, split: str, metric: str) -> float | None:
    return ((splits or {}).get(split) or {}).get(metric)


def _is_same_run(one: Entry, other: Entry) -> bool:
    same = ("column", "ids", "salt", "data", "seed", "settings")
    return all(one.get(name) == other.get(name) for name in same)
