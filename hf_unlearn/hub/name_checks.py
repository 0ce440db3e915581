"""Checks before an upload: nothing in it may name who was forgotten, or hold the access token."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from huggingface_hub import get_token
from huggingface_hub.utils import validate_repo_id
from safetensors import safe_open
from transformers.trainer import TRAINER_STATE_NAME

from ..privacy.redaction import mentions_any, texts_of
from ..report.file_names import ARGUMENTS, CARD, LEDGER, RESULTS, UNLEARN_STATE
from .metadata import on_hub

# Files whose content is not text.
BINARY = (".safetensors", ".pt", ".pth", ".bin", ".png")
TEXTS = (".json", ".jinja", ".md", ".yaml")
VOCABULARIES = ("tokenizer.json", "vocab.json", "added_tokens.json", "*.index.json")
# JSON files that are redacted before they are uploaded.
REDACTED = (RESULTS, ARGUMENTS, TRAINER_STATE_NAME, UNLEARN_STATE)
GENERATED = (*REDACTED, LEDGER, CARD, "*.yaml")
# The ids and digests of a ledger, in which letters may spell a name such as "abe".
DIGEST = re.compile("[0-9a-f]{16}|[0-9a-f]{64}")


def check_name(repo_id: str, hidden: list[str]) -> None:
    """Raises ValueError if a repository's name is invalid or mentions one of the `hidden` names."""
    validate_repo_id(repo_id)
    if mentions_any(repo_id, hidden):
        raise ValueError(
            f"the repository's name, {repo_id}, names a forgotten person: give another "
            "hub_model_id or --repo_id, or publish the name knowingly with name_forgotten"
        )


def check_upload_texts(sent: dict[str, str | None], hidden: list[str]) -> None:
    """Raises ValueError if a text that is sent with the files mentions one of `hidden`.

    Args:
        sent: what the text is ("commit message") -> the text.
    """
    for what, text in sent.items():
        if text and mentions_any(text, hidden):
            raise ValueError(
                f"the {what}, {text!r}, names a forgotten person: change it, or publish the name "
                "knowingly with name_forgotten"
            )


def require_base_on_hub(base: str | None, local: Iterable[str] = ()) -> None:
    """Raises ValueError if the base model of an adapter is not on the Hub.

    Args:
        local: names that were folders where the model was made.
    """
    if not on_hub(base, local):
        raise ValueError(
            f"the adapter's base model, {base or 'a new model'}, is not on the Hub, so nobody "
            "could load the adapter: train without push_to_hub and push the merged model "
            "(hf-unlearn push --merge, or trainer.push_to_hub(merge=True)), or start from a model "
            "on the Hub"
        )


def check_texts(folder: Path, hidden: list[str], token: str | None) -> None:
    """The last check of what is about to be uploaded: file names, texts and names of tensors.

    Numbers of one or two digits are not searched for, because configurations hold many.

    Raises:
        ValueError: something mentions one of `hidden`, or a file contains the access token.
    """
    hidden = [name for name in hidden if not name.isdigit() or len(name) > 2]
    words = [name for name in hidden if not name.isdigit()]
    token = token or get_token()
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        if mentions_any(path.name, hidden):
            raise ValueError(
                f"the file {path.name!r} names a forgotten person: rename it or move it elsewhere"
            )
    for path in files:
        if path.suffix not in BINARY:
            # Generated files hold measured numbers, and pseudonyms, which have digits.
            generated = any(path.match(pattern) for pattern in GENERATED)
            _check_text(path, words if generated else hidden, token)
    for path in files:
        if path.suffix == ".safetensors":
            # Numbers in the names of tensors count layers.
            _check_tensors(path, words)


def _check_text(path: Path, hidden: list[str], token: str | None) -> None:
    text = path.read_text(encoding="utf-8", errors="replace")
    if token and token in text:
        raise ValueError(
            f"{path.name} holds the access token, so nothing was uploaded: remove it from the file"
        )
    if any(path.match(pattern) for pattern in VOCABULARIES) or path.suffix not in TEXTS:
        return
    for passage in _texts_in(path, text):
        if path.name == LEDGER and DIGEST.fullmatch(passage):
            continue
        if mentions_any(passage, hidden):
            raise ValueError(
                f"{path.name} contains {passage!r}, which names a forgotten person: change it, or "
                "publish the name knowingly with name_forgotten"
            )


def _texts_in(path: Path, text: str) -> Iterator[str]:
    """The strings of a JSON file, the lines of another one."""
    if path.suffix != ".json":
        yield from text.splitlines()
        return
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ValueError(
            f"{path.name} is not valid JSON ({error}): fix it or move it elsewhere"
        ) from error
    yield from texts_of(content)


def _check_tensors(path: Path, hidden: list[str]) -> None:
    """Checks the names of tensors: a model can have a head for each speaker."""
    with safe_open(path, framework="pt") as file:
        names = [*file.keys(), *texts_of(file.metadata() or {})]
    for name in names:
        if mentions_any(name, hidden):
            raise ValueError(
                f"{path.name} contains {name!r}, which names a forgotten person: rename that part "
                "of the model"
            )
