"""What users and base models' cards say of a model, as the Hub wants it: lists, language codes, no
local paths."""

import re
from pathlib import Path

from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE
from transformers.utils import logging

logger = logging.get_logger(__name__)

# ISO 639, with a script or region: zh-hant, pt-br
CODE = re.compile(r"[a-z]{2,3}(?:-[a-z0-9]{2,8})*")
NOT_ISO = {"jw": "jv"}  # Whisper's code of Javanese


def listed(value) -> list[str]:
    """One or several texts as a list: a text is one entry, and not its letters."""
    if value is None or isinstance(value, dict):
        return []
    if isinstance(value, list | tuple | set):
        return [text for part in value for text in listed(part)]
    return [str(value)] if str(value).strip() else []


def language_codes(given) -> list[str]:
    """The codes that the Hub takes, of one or several languages: "English", "en", "EN", "<|en|>" ->
    "en".

    What is no language is left out with a warning. YAML reads an unquoted `no`, Norwegian, as
    False.
    """
    codes = []
    for name in listed(["no" if given is False else given]):
        text = "no" if name == "False" else name.strip().strip("<|>").lower().replace("_", "-")
        code = TO_LANGUAGE_CODE.get(text, text)
        if code in ("multilingual", "code") or code in LANGUAGES or CODE.fullmatch(code):
            codes.append(NOT_ISO.get(code, code))
        else:
            logger.warning(
                f"The card leaves the language {name!r} out, which is no language that it knows: "
                "give its code, such as 'en'."
            )
    return list(dict.fromkeys(codes))


def is_path(text: str, local=()) -> bool:
    """Whether a text is a path of this machine, or of the one where the run was (`local`): a word
    is none."""
    if not re.search(r"[/\\]", text):
        return False
    return (
        text in local
        or bool(re.match(r"\.{0,2}[/\\]|~|[A-Za-z]:[/\\]", text))
        or Path(text).exists()
    )


def shown(text: str | None, local=()) -> str | None:
    """A name for readers: of a path only the last part, since the rest speaks of somebody's
    machine.

    Scripts make names of paths: "DATA/FSDD - NA".
    """
    for path in local:
        if text and is_path(path, local) and text.casefold().startswith(path.casefold()):
            return _last(text[: len(path)]) + text[len(path) :]
    return _last(text) if text and is_path(text, local) else text


def _last(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]
