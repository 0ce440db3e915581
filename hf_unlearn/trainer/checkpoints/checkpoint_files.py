"""Checkpoints on disk: which of them is complete, which one to resume from, and how to write one so
that a run killed at any moment leaves no broken files. `checkpointing` is the trainer's side: what
it saves and loads."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from ...files import link_or_copy, one_line, read_json, written_whole
from ...report.file_names import CARD, UNLEARN_STATE

logger = logging.get_logger(__name__)


def is_complete(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end. The trainer's state is written last
    (`checkpointing`), and truncated JSON cannot be parsed."""
    return isinstance(read_json(checkpoint / TRAINER_STATE_NAME), dict)


def saved_state(checkpoint: str | Path) -> dict:
    """What a checkpoint stores beyond Trainer's state; {} for one of ordinary training."""
    return read_json(Path(checkpoint) / UNLEARN_STATE) or {}


def mismatch(checkpoint: Path, run: dict) -> str | None:
    """Why a run cannot resume from a checkpoint; None if it can.

    Args:
        run: what they must have in common (`run_identity`).
    """
    if not (checkpoint / UNLEARN_STATE).is_file():
        return "comes from ordinary training, not from unlearning"
    saved = saved_state(checkpoint).get("run", {})
    other = [
        name
        for name, value in run.items()
        if None not in (value, saved.get(name)) and saved[name] != value
    ]
    differences = ", ".join(
        # a digest says nothing to readers
        f"other {name}" if name == "forget labels" else f"{name} {saved[name]}, not {run[name]}"
        for name in other
    )
    return f"belongs to another run: {differences}" if other else None


def last_complete(folder: Path, run: dict | None = None) -> Path | None:
    """The complete checkpoint of an unlearning run with the most steps; None if there is none.

    Args:
        run: if given, what the checkpoint must have in common with this run.
    """
    steps = {
        path: path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
        for path in folder.glob("checkpoint-*")
    }
    numbered = [path for path in steps if steps[path].isdigit()]
    for path in sorted(numbered, key=lambda path: -int(steps[path])):
        if not is_complete(path):
            logger.warning(
                f"Ignoring {path}: it is incomplete. The run was probably killed while saving it."
            )
        elif (reason := mismatch(path, run or {})) is not None:
            logger.warning(f"Ignoring {path}: it {reason}.")
        else:
            return path
    return None


def find_checkpoint(
    wanted: str | bool | None, output_dir: str, run: dict | None = None
) -> str | None:
    """The checkpoint that `train(resume_from_checkpoint=...)` resumes from; None for a fresh start.

    Args:
        wanted: a folder; True or "true" for the last complete checkpoint of output_dir; "auto" for
            the same, or a fresh start if there is none yet; None or False for a fresh start.
        run: what the checkpoint must have in common with this run. Others are ignored, or refused
            if named.

    Raises:
        ValueError: there is no complete checkpoint, or it comes from ordinary training or from
            another run.
    """
    if isinstance(wanted, str) and wanted.lower() in ("true", "false"):
        wanted = wanted.lower() == "true"
    if wanted is None or wanted is False:
        return None
    if wanted is True or wanted == "auto":
        checkpoint = last_complete(Path(output_dir), run)
        if checkpoint is None and wanted is True:
            raise ValueError(
                f"there is no complete checkpoint in {output_dir} that this run could resume from: "
                "start without resuming"
            )
        return None if checkpoint is None else str(checkpoint)
    if not is_complete(Path(wanted)):
        raise ValueError(
            f"{wanted} is not a complete checkpoint (no readable {TRAINER_STATE_NAME}): give "
            "another one, or give True for the last complete one"
        )
    if (reason := mismatch(Path(wanted), run or {})) is not None:
        raise ValueError(
            f"the checkpoint {wanted} {reason}. Trainer would count its steps as steps of this "
            "run: load it as the model instead, and start without resuming"
        )
    return wanted


def link_into_checkpoint(file: Path, target: Path) -> None:
    """Puts a file that will not change into a checkpoint, as a hard link where the disk allows."""
    with written_whole(target) as partial:
        link_or_copy(file, partial)


@contextlib.contextmanager
def folder_written_whole(target: Path) -> Iterator[Path]:
    """Yields a new folder, whose files replace those in `target` once all are written, so that a
    full disk leaves the earlier model intact. An existing README.md stays: it may be the user's."""
    partial = target / ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in [path for path in partial.rglob("*") if path.is_file()]:
            final = target / path.relative_to(partial)
            final.parent.mkdir(exist_ok=True)
            if final.name != CARD or not final.exists():
                os.replace(path, final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


class SavingError(OSError):
    """A checkpoint or a model could not be saved."""


@contextlib.contextmanager
def explaining_failures(folder: Path, output_dir: Path) -> Iterator[None]:
    """Turns the many errors that saving can raise (above all for a full disk) into one clear
    message. Nested contexts give the message once.

    Raises:
        SavingError: in place of any error raised within the context.
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
        remedy = (
            " Make room (or set save_total_limit), then start again with "
            "resume_from_checkpoint=True."
        )
        reason = one_line(error).rstrip(".") or type(error).__name__
        raise SavingError(
            f"could not save to {folder}: {reason}. {kept}; earlier files are unchanged."
            f"{remedy if _disk_is_full(error) else ''}"
        ) from error


def _disk_is_full(error: BaseException) -> bool:
    """Whether an error of Python, safetensors or torch means that the disk or the user's quota is
    full."""
    full = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
    phrases = (
        *(f"os error {number}" for number in full),
        *map(os.strerror, full),
        "PytorchStreamWriter",
        "unexpected pos",
    )
    return getattr(error, "errno", None) in full or any(phrase in str(error) for phrase in phrases)
