"""Runs an audit: measures all models through every door, and continues where an earlier call
stopped."""

import contextlib
import gc
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from tqdm.auto import tqdm
from transformers.utils.logging import (
    disable_progress_bar,
    enable_progress_bar,
    is_progress_bar_enabled,
)

from ...files import one_line, write_json
from ...hub.model_card import write_card
from ...privacy.redaction import salt_of
from ...report.audit_ranking import deciding_doors
from ...report.audit_tables import audit_text
from ...report.best_effort import warn_if_not_written
from ...report.file_names import AUDIT, REPORT
from ...report.html_page import Report
from .audit_file import is_done, load_or_start, settings_of_door
from .audited_run import AuditedRun, find_run
from .door import Door, DoorUnavailable, Subject, subject_of
from .doors import DOORS
from .examiner import examiner_of
from .gaps import Finding, gap_to_retrained, points_forgotten
from .settings import AuditSettings

logger = logging.getLogger(__name__)


def audit(
    folder: str | Path,
    config: str | Path | None = None,
    *,
    settings: AuditSettings | None = None,
    doors: Sequence[str] = (),
) -> dict:
    """Measures the original, the unlearned and the retrained model of a run through every door.

    Each door's values are written to `folder`/audit.json when it is done. A second call with the
    same models and data continues after them, and measures again only the doors whose settings
    have changed. At the end the audit also enters results.json, the card and report.html, if the
    run has a results.json. Needs no network.

    Args:
        folder: output_dir of a run, or the folder of an unlearned model.
        config: the run's configuration (YAML), where there is no results.json or where something
            has moved since.
        settings: how much is measured.
        doors: names of the doors to try; by default all.

    Returns:
        The content of audit.json: `doors`, a mapping from a door's name to the values of the
        models, the gap (see `gap_to_retrained`) and what the door means; `worst`, the entry of the
        worst door; `surest` and `conspicuous` (see `report.audit_ranking.deciding_doors`).

    Raises:
        ValueError: a door or the judged split is unknown, or the run's data or models cannot be
            found.
    """
    settings, folder = settings or AuditSettings(), Path(folder)
    if unknown := sorted(set(doors) - set(DOORS)):
        raise ValueError(f"there is no door {', '.join(unknown)}: there are {', '.join(DOORS)}")
    run = find_run(folder, None if config is None else Path(config))
    if settings.relearn_learning_rate is None:
        settings = replace(settings, relearn_learning_rate=run.tuning_rate)
    subjects = load_subjects(run, settings)
    content = load_or_start(folder / AUDIT, run, subjects)
    subjects = judged_by(subjects, content["judged"]["split"])
    wanted = [door for door in DOORS.values() if not doors or door.name in doors]
    bar = tqdm(wanted, unit="door", disable=run.recipe.args.disable_tqdm)
    with quiet_loading():
        for door in bar:
            bar.set_description(door.name)
            if not is_done(content["doors"].get(door.name)):
                add_entry(content, door.name, measure_door(door, subjects))
                write_json(folder / AUDIT, content)
    add_to_run(run, content)
    print("", f"{AUDIT} is in {folder}", audit_text(content), sep="\n\n")
    return content


def add_entry(content: dict, name: str, entry: dict) -> None:
    """Adds the entry of a door, in the order of the table, and judges all doors again."""
    doors = {**content["doors"], name: entry}
    content["doors"] = {name: doors[name] for name in DOORS if name in doors}
    content |= deciding_doors(content["doors"])


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Hides the progress bars of saving and loading, because doors do both often."""
    shown = is_progress_bar_enabled()
    disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            enable_progress_bar()


def load_subjects(run: AuditedRun, settings: AuditSettings) -> dict[str, Subject]:
    """The models, the unlearned one first: if a door does not apply to it, the door is skipped for
    all."""
    models = {name: run.load(name) for name in run.models}
    examiner = examiner_of(run.recipe, models["unlearned"], settings.max_samples)
    kind, subjects = subject_of(run.recipe), dict[str, Subject]()
    for name, model in models.items():
        folder = run.models[name]
        subjects[name] = kind(name, model, examiner, run.recipe, settings, folder, subjects)
    return subjects


def judged_by(subjects: dict[str, Subject], split: str) -> dict[str, Subject]:
    """The models with an examiner that judges by a split."""
    examiner = subjects["unlearned"].examiner.judging_by(split)
    judged: dict[str, Subject] = {}
    for name, subject in subjects.items():
        judged[name] = replace(subject, examiner=examiner, subjects=judged)
    return judged


# ---- doors ---------------------------------------------------------------------------------------


def measure_door(door: Door, subjects: dict[str, Subject]) -> dict:
    """The entry of a door in audit.json."""
    about, unlearned = {"group": door.group, "meaning": door.meaning}, subjects["unlearned"]
    if unlearned.recipe.task not in door.tasks:
        return {**about, "unavailable": door.unavailable_reason}
    try:
        findings = {name: measure_seeded(door, subject) for name, subject in subjects.items()}
        entry = entry_of(door.combine(findings) if door.combine else findings)
        used = settings_of_door(door, unlearned.settings, unlearned.examiner.judged_split)
        return {**about, **entry, "settings": used}
    except DoorUnavailable as reason:
        return {**about, "unavailable": str(reason)}
    except Exception as error:
        # The other doors are still measured. The entry, the headline and this warning report it.
        logger.warning(f"The door {door.name} failed.", exc_info=True)
        return {**about, "failed": f"{type(error).__name__}: {one_line(error)}"}


def measure_seeded(door: Door, subject: Subject) -> Finding:
    """The door's finding of a model. Doors that draw random numbers draw the same ones for every
    model, and when they are resumed."""
    torch.manual_seed(subject.recipe.args.seed)
    finding = door.measure(subject)
    gc.collect()
    return finding


def entry_of(findings: dict[str, Finding]) -> dict:
    """The values of the models, and how they compare.

    Raises:
        DoorUnavailable: a value is not finite.
    """
    values = {name: one.value for name, one in findings.items()}
    if broken := [name for name, value in values.items() if not math.isfinite(value)]:
        raise DoorUnavailable(f"its value is not finite for the {' and the '.join(broken)} model")
    more = {name: one.more for name, one in findings.items() if one.more}
    compared = {}
    if findings["unlearned"].direction:
        compared["forgotten"] = points_forgotten(findings["original"], findings["unlearned"])
        if "retrained" in findings:
            compared |= gap_to_retrained(findings["unlearned"], findings["retrained"])
    order = [name for name in ("original", "unlearned", "retrained") if name in values]
    return {
        "unit": findings["unlearned"].unit,
        **{name: values[name] for name in order},
        **compared,
        **({"more": more} if more else {}),
    }


def add_to_run(run: AuditedRun, content: dict) -> None:
    """Puts the audit into results.json, the card and report.html of the run."""
    results, folder, named = run.results, run.folder, run.recipe.args.name_forgotten
    if results is None:
        return
    results.audit = {name: value for name, value in content.items() if name != "made_of"}
    results.write(folder)
    with warn_if_not_written("the model card", folder):
        write_card(folder, results, salt_of(folder), name_forgotten=named)
    with warn_if_not_written(REPORT, folder):
        salt = None if named else salt_of(folder)
        sounds = run.recipe.audio(results) if results.transcripts else {}
        Report(results, salt, sounds).save(folder / REPORT)
