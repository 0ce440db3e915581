"""Checkpoints that a run killed at any moment can resume from, and the signal that asks for one."""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from ..files import written_whole

logger = logging.get_logger(__name__)
OUR_STATE = "unlearn_state.json"


def is_complete(checkpoint: Path) -> bool:
    """Whether all of a checkpoint was written: the trainer's state comes last
    (`UnlearnTrainer._save_checkpoint`), and JSON that ends early cannot be read."""
    try:
        return isinstance(json.loads((checkpoint / TRAINER_STATE_NAME).read_text()), dict)
    except (OSError, ValueError):
        return False


def saved_state(checkpoint: str | Path) -> dict:
    """What a checkpoint says beside Trainer's state; {} where it is not of a run of unlearning."""
    try:
        return json.loads((Path(checkpoint) / OUR_STATE).read_text())
    except (OSError, ValueError):
        return {}


def of_another_run(checkpoint: Path, run: dict) -> str | None:
    """Why nothing can be resumed from a checkpoint by a run; None if it can.

    Args:
        run: what they must have in common (`ending.run_of`).
    """
    if not (checkpoint / OUR_STATE).is_file():
        return "is of ordinary training, not of unlearning"
    saved = saved_state(checkpoint).get("run", {})
    other = [
        name
        for name, value in run.items()
        if None not in (value, saved.get(name)) and saved[name] != value
    ]
    differences = ", ".join(f"{name} {saved[name]}, not {run[name]}" for name in other)
    return f"is of another run: {differences}" if other else None


def last_complete(folder: Path, run: dict | None = None) -> Path | None:
    """The checkpoint with the most steps that was written to its end, by a run of unlearning (by
    `run`, if given)."""
    steps = {
        path: path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
        for path in folder.glob("checkpoint-*")
    }
    for path in sorted(
        (path for path in steps if steps[path].isdigit()), key=lambda path: -int(steps[path])
    ):
        if not is_complete(path):
            logger.warning(
                f"{path} is incomplete, as a run killed while saving leaves it: passed over."
            )
        elif (other := of_another_run(path, run or {})) is not None:
            logger.warning(f"{path} {other}. It is passed over.")
        else:
            return path
    return None


def find_checkpoint(
    wanted: str | bool | None, output_dir: str, run: dict | None = None
) -> str | None:
    """What `train(resume_from_checkpoint=...)` resumes from.

    Args:
        wanted: a folder; True or "true" for the last complete checkpoint of output_dir; "auto" for
            the same, or None where there is none yet; None or False for None.
        run: what a checkpoint must have in common with this run: one that has not is passed over,
            or refused if named.

    Raises:
        ValueError: there is no complete checkpoint, or it is of ordinary training, or of another
            run.
    """
    if isinstance(wanted, str) and wanted.lower() in ("true", "false"):
        wanted = wanted.lower() == "true"
    if wanted is None or wanted is False:
        return None
    if wanted is True or wanted == "auto":
        found = last_complete(Path(output_dir), run)
        if found is None and wanted is True:
            raise ValueError(
                f"there is no complete checkpoint in {output_dir} that this run could resume from: "
                "start without resuming"
            )
        return None if found is None else str(found)
    if not is_complete(Path(wanted)):
        raise ValueError(
            f"{wanted} is no complete checkpoint (no readable {TRAINER_STATE_NAME}): name another "
            "one, or let True find "
            "the last complete one"
        )
    if (other := of_another_run(Path(wanted), run or {})) is not None:
        raise ValueError(
            f"the checkpoint {wanted} {other}. Trainer would count its steps as steps of this run: "
            "give it as the model, and "
            "start without resuming"
        )
    return wanted


def copied(file: Path, target: Path) -> None:
    """Puts a file that stays as it is into a checkpoint, without taking its room again where the
    disk can share it."""
    with written_whole(target) as partial:
        try:
            os.link(file, partial)
        except OSError:
            shutil.copyfile(file, partial)


@contextlib.contextmanager
def folder_written_whole(target: Path) -> Iterator[Path]:
    """A new folder's path, whose files take the place of those in `target` once all are written: a
    full disk leaves the model that was there. A README.md stays, since it may be the user's."""
    partial = target / ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in [path for path in partial.rglob("*") if path.is_file()]:
            place = target / path.relative_to(partial)
            place.parent.mkdir(exist_ok=True)
            if place.name != "README.md" or not place.exists():
                os.replace(path, place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


class SavingError(OSError):
    """A checkpoint or a model that was not written."""


@contextlib.contextmanager
def saving(folder: Path, output_dir: Path) -> Iterator[None]:
    """Makes one clear message of the many ways in which writing fails (a full disk, first of all).

    Raises:
        SavingError: instead of what the writers of the different files raise; once, where one of
            these contexts is in another.
    """
    try:
        yield
    except SavingError:
        raise
    except Exception as error:
        last = last_complete(output_dir)
        kept = (
            f"The last complete checkpoint is {last}"
            if last
            else "There is no complete checkpoint yet"
        )
        room = " Make room (or set save_total_limit), then start again with resume_from_checkpoint=True."
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise SavingError(
            f"could not save to {folder}: {reason}. {kept}; what was there before is left as it "
            "was."
            f"{room if _needs_room(error) else ''}"
        ) from error


def _needs_room(error: BaseException) -> bool:
    """Whether the disk, or what the user may write to it, is full: as Python says it, safetensors,
    or torch."""
    full = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
    said = (
        *(f"os error {number}" for number in full),
        *map(os.strerror, full),
        "PytorchStreamWriter",
        "unexpected pos",
    )
    return getattr(error, "errno", None) in full or any(words in str(error) for words in said)
