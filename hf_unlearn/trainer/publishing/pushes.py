"""Checks pushes to the Hub before the training, and pushes checkpoints while it goes on
(`hub_strategy`). Checkpoints are redacted as the final push is."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, HfApi
from peft import PeftModel
from torch import nn
from transformers.trainer_utils import HubStrategy
from transformers.utils import logging

from ...config import UnlearnConfig
from ...hub.name_checks import (
    REDACTED,
    check_name,
    check_texts,
    check_upload_texts,
    require_base_on_hub,
)
from ...hub.neutral_labels import make_labels_neutral
from ...hub.staging import link, stage
from ...hub.upload import HubError, hub_failures
from ...privacy.redaction import salt_of
from ...report.file_names import CARD, RESULTS
from ...report.results import Results

logger = logging.get_logger(__name__)

# What a run resumes from, beyond the model's files.
RESUME_FILES = ("optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state*.pth", *REDACTED)


def check_push_of_trainer(
    repo_id: str, model: nn.Module, processing_class: Any, args: UnlearnConfig, token: str | None
) -> None:
    """Refuses before training what every push of the run would refuse.

    Raises:
        ValueError: a name or text names a forgotten person; an access token stands in a text; the
            adapter's base model is not on the Hub.
    """
    names = [] if args.name_forgotten else args.hide_names
    check_name(repo_id, names)
    check_upload_texts({"hub_revision": args.hub_revision}, names)
    if isinstance(model, PeftModel):
        require_base_on_hub(model.active_peft_config.base_model_name_or_path)
    with tempfile.TemporaryDirectory() as folder:
        # modules and processing classes of the user's own may have nothing to save
        for part in (getattr(model, "config", None), processing_class):
            if names and hasattr(part, "save_pretrained"):
                part.save_pretrained(folder)
        make_labels_neutral(Path(folder), names, "label")
        check_texts(Path(folder), names, token)


def stage_checkpoint(
    checkpoint: Path, staged: Path, results: Results, repo_id: str, args: UnlearnConfig
) -> None:
    """Puts the files to be uploaded into `staged`: the checkpoint's model as the repository's own
    and, if `hub_strategy` asks for it, the whole checkpoint in a folder beside it.

    Raises:
        ValueError: as `hub.staging.stage`.
    """
    with tempfile.TemporaryDirectory() as folder:
        complete = Path(folder)
        for path in checkpoint.iterdir():
            if path.is_file():
                link(path, complete / path.name)
        results.write(complete)
        (complete / CARD).unlink(missing_ok=True)
        names = stage(
            complete,
            staged,
            repo_id,
            salt_of(args.output_dir),
            token=args.hub_token,
            name_forgotten=args.name_forgotten,
        )
        folder_of: dict[str, str] = {
            HubStrategy.CHECKPOINT: "last-checkpoint",
            HubStrategy.ALL_CHECKPOINTS: checkpoint.name,
        }
        if args.hub_strategy in folder_of:
            inside = staged / folder_of[args.hub_strategy]
            _stage_whole(complete, staged, inside)
            check_texts(inside, names, args.hub_token)


def _stage_whole(complete: Path, staged: Path, inside: Path) -> None:
    """Puts what a run resumes from into the folder `inside`, as staged (redacted) where possible.

    Neither earlier weights, which still know what is to be forgotten, nor files that somebody else
    put there are taken along.
    """
    inside.mkdir()
    for path in complete.iterdir():
        if path.name == RESULTS:
            continue
        if (staged / path.name).exists():
            link(staged / path.name, inside / path.name)
        elif any(path.match(pattern) for pattern in RESUME_FILES):
            link(path, inside / path.name)


def upload(staged: Path, message: str, repo_id: str, args: UnlearnConfig) -> CommitInfo:
    """Uploads a staged checkpoint, and removes the staged files. Called in the background.

    Raises:
        HubError: the upload failed; the training goes on, because the final push is the one that
            counts.
    """
    try:
        with hub_failures(repo_id, args.output_dir):
            return HfApi(token=args.hub_token).upload_folder(
                repo_id=repo_id,
                folder_path=staged,
                commit_message=message,
                revision=args.hub_revision,
            )
    except Exception as error:
        # Nobody else sees an error of the background.
        reason = error if isinstance(error, HubError) else repr(error)
        logger.warning(f"{message}: {reason}")
        raise
    finally:
        shutil.rmtree(staged, ignore_errors=True)
