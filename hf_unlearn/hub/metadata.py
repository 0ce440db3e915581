"""Metadata of a card in the form that the Hub accepts: lists, language codes, ids, no local paths.

It comes from users and from the base model's card.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE
from transformers.utils import logging

from ..files import one_line, read_text_file
from ..files.yaml_files import header_of
from ..report.file_names import CARD

logger = logging.get_logger(__name__)

# ISO 639, with a script or region: zh-hant, pt-br
CODE = re.compile(r"[a-z]{2,3}(?:-[a-z0-9]{2,8})*")
# Whisper's code of Javanese is not the ISO code.
NOT_ISO = {"jw": "jv"}


def listed(value: Any) -> list[str]:
    """One text or several as a list. A single text becomes one entry, not a list of letters."""
    if value is None or isinstance(value, dict):
        return []
    if isinstance(value, list | tuple | set):
        return [text for part in value for text in listed(part)]
    return [str(value)] if str(value).strip() else []


def language_codes(languages: Any) -> list[str]:
    """The Hub's codes of one or several languages: "English", "en", "EN", "<|en|>" -> "en".

    Anything that is not a language is left out with a warning. False stands for Norwegian, because
    YAML reads an unquoted `no` as False.
    """
    codes = []
    for name in dict.fromkeys(listed(["no" if languages is False else languages])):
        text = "no" if name == "False" else name.strip().strip("<|>").lower().replace("_", "-")
        code = TO_LANGUAGE_CODE.get(text, text)
        if code in ("multilingual", "code") or code in LANGUAGES or CODE.fullmatch(code):
            codes.append(NOT_ISO.get(code, code))
        else:
            logger.warning(
                f"The card omits the language {name!r}, which is not known: give its code, such "
                "as 'en'."
            )
    return list(dict.fromkeys(codes))


def is_path(text: str, local: Iterable[str] = ()) -> bool:
    """Whether a text is a path: on this machine, or (`local`) on the one where the run was.

    A text without a slash or backslash is not one.
    """
    if not re.search(r"[/\\]", text):
        return False
    return (
        text in local
        or bool(re.match(r"\.{0,2}[/\\]|~|[A-Za-z]:[/\\]", text))
        or Path(text).exists()
    )


def name_for_readers(text: str | None, local: Iterable[str] = ()) -> str | None:
    """A name for readers: the last part of a path, because the rest describes somebody's machine.

    Also where a text starts with a path, as in the names that scripts build: "DATA/FSDD - NA".
    """
    for path in local:
        if text and is_path(path, local) and text.casefold().startswith(path.casefold()):
            return _last_part(text[: len(path)]) + text[len(path) :]
    return _last_part(text) if text and is_path(text, local) else text


def _last_part(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def on_hub(name: str | None, local: Iterable[str] = ()) -> bool:
    """Whether `name` can be an id on the Hub.

    A folder is not one, whether it is here or was (`local`) where the run was.
    """
    try:
        validate_repo_id(name or "")
    except HFValidationError:
        return False
    return name not in local and not Path(name).exists()


def local_among(*names: str | None) -> list[str]:
    """Those of `names` that are folders here.

    They are noted in the results, because `out/data` looks like an id on another machine.
    """
    return [name for name in names if name and Path(name).exists()]


def inherited_metadata(base_model: str | None, known_local: Iterable[str]) -> dict:
    """The metadata of the base model's card; empty if there is none that can be read."""
    if not base_model:
        return {}
    local = Path(base_model)
    if local.exists():
        return _metadata_in(local / CARD)
    if not on_hub(base_model, known_local):
        return {}
    try:
        return header_of(read_text_file(hf_hub_download(base_model, CARD)))
    except Exception:
        # Offline, private, no card, and so on: none of it may cost users their own card.
        return {}


def _metadata_in(card: Path) -> dict:
    try:
        return header_of(read_text_file(card)) if card.exists() else {}
    except Exception as error:
        # Of YAML, or of the file's encoding.
        reason = one_line(error)
        logger.warning(f"Cannot read {card} as a model card, so nothing is inherited: {reason}")
        return {}
