"""Redaction: keeps the names of forgotten persons, and access tokens, out of what is published."""

import hashlib
import re
import secrets
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..files import written_whole
from .mentions import Mentions, mentions_of

# Keys whose values are ids. Users of the plain trainer give `hide_names`
# (`UnlearnConfig.hide_names`).
IDENTIFYING = (
    "forget_speakers",
    "forget_ids",
    "retain_speakers",
    "retain_ids",
    "speakers",
    "hide_names",
)
# File of the salt, beside results.json. It is never uploaded.
SALT = ".salt"


def salt_of(folder: str | Path) -> str:
    """The salt of a run's pseudonyms, created on first use.

    Because it is kept, the card, the results and later uploads use the same pseudonyms. Only the
    owner can read the file: whoever has the salt can try all ids.
    """
    path = Path(folder) / SALT
    # A full disk leaves an empty file, and an empty salt would hide nothing.
    if not path.exists() or not path.read_text():
        write_salt(secrets.token_hex(16), folder)
    return path.read_text()


def write_salt(salt: str, folder: str | Path) -> None:
    """Makes a salt that of a run's output folder. Only the owner can read the file."""
    with written_whole(Path(folder) / SALT, private=True) as partial:
        partial.write_text(salt)


def hide_tokens(text: str) -> str:
    """Replaces access tokens by `***`: those of the Hub, and the value of any --<...>token."""
    text = re.sub(r"(--\w*token[ =])\S+", r"\1***", text)
    return re.sub(r"\bhf_[A-Za-z0-9]{8,}", "***", text)


def redact(results: Mapping[str, Any], salt: str) -> dict[str, Any]:
    """A copy of `results` without the ids of forgotten speakers, for everything that is published.

    - Each id under a key in IDENTIFYING becomes its pseudonym. So do the ids of retained speakers,
      because anyone who has the dataset could otherwise see who is missing.
    - In all other texts (command, paths, keys) the id of a forgotten speaker or utterance becomes
      its pseudonym, together with the rest of the path or utterance id, in any spelling or encoding
      (see `Mentions`). A very short id may also match an unrelated number, which is then hidden
      too.
    - `environment` is kept, because it holds no text of the user's.

    The same salt gives the same pseudonyms. It must stay secret: whoever has it can try all ids.

    Raises:
        ValueError: no forgotten speaker is named, so it is not known whom to hide.
    """
    ids = _identifiers(results)
    forgotten = ids["forget_speakers"] | ids["hide_names"]
    if not forgotten:
        raise ValueError(
            "results names no forget_speakers in its config or data, so it is not known whom to "
            "hide: put them there, or publish the names knowingly with name_forgotten=True."
        )
    # Row numbers name nobody.
    numbered = {name for name in ids["forget_ids"] if name.isdigit()}
    named = forgotten | ids["retain_speakers"]
    speakers = mentions_of(tuple(sorted(named)))
    # The ids that mention their speaker are replaced with that mention and need no pattern.
    further = {
        name for name in ids["forget_ids"] - numbered if speakers.replace(name, lambda _: "")
    }
    mentions = Mentions(named | further) if further else speakers
    everyone = set().union(*ids.values())

    def clean(value: Any, identifies: bool = False) -> Any:
        if isinstance(value, Mapping):
            return _distinct(
                (
                    clean(key, key in everyone),
                    item if key == "environment" else clean(item, key in IDENTIFYING or identifies),
                )
                for key, item in value.items()
            )
        if isinstance(value, list | tuple | set):
            return [clean(item, identifies) for item in value]
        if identifies and isinstance(value, str | int):
            return pseudonym(value, salt)
        if isinstance(value, str | Path):
            return mentions.replace(str(value), lambda name: pseudonym(name, salt))
        return value

    return clean(results)


def without_names(value: Any, names: list[str]) -> Any:
    """`value` with "hidden" in place of each mention of one of `names` (see `Mentions`)."""
    mentions = mentions_of(tuple(names))

    def clean(value: Any) -> Any:
        if isinstance(value, Mapping):
            return _distinct((clean(key), clean(item)) for key, item in value.items())
        if isinstance(value, list | tuple):
            return [clean(item) for item in value]
        return mentions.replace(value, lambda name: "hidden") if isinstance(value, str) else value

    return clean(value) if mentions else value


def texts_of(value: Any) -> Iterator[str]:
    """All texts in `value`, keys included."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from (str(key), *texts_of(item))
    elif isinstance(value, list | tuple | set):
        for item in value:
            yield from texts_of(item)
    elif isinstance(value, str):
        yield value


def must_hide(results: Mapping[str, Any], personal: bool) -> bool:
    """Whether something in `results` must not be published.

    That is the case if persons are forgotten (`personal`), or if the user gave names to hide.
    """
    return personal or bool(_identifiers(results)["hide_names"])


def hidden_names(results: Mapping[str, Any]) -> list[str]:
    """The ids of the forgotten persons, and the names that the user wants to hide."""
    ids = _identifiers(results)
    return sorted(ids["forget_speakers"] | ids["hide_names"])


def mentions_any(text: str, names: list[str]) -> bool:
    """Whether `text` mentions one of `names` (see `Mentions`)."""
    return bool(mentions_of(tuple(names)).find(text))


def pseudonym(identifier: str | int, salt: str, digits: int = 8) -> str:
    """The first hex digits of sha256(salt + id), whatever the Unicode normal form of the id."""
    composed = unicodedata.normalize("NFC", str(identifier))
    return hashlib.sha256(f"{salt}{composed}".encode()).hexdigest()[:digits]


def _distinct(items: Iterable[tuple[Any, Any]]) -> dict:
    """A dict of these pairs. Keys that became equal (anna_wer and anna_loss) are numbered."""
    result: dict = {}
    for key, item in items:
        alike, number = key, 1
        while alike in result:
            number += 1
            alike = f"{key}-{number}"
        result[alike] = item
    return result


def _identifiers(results: Mapping[str, Any]) -> dict[str, set[str]]:
    """{key of IDENTIFYING: all ids under it, at any depth}."""
    ids: dict[str, set[str]] = {key: set() for key in IDENTIFYING}
    _collect(results, ids)
    return ids


def _collect(value: Any, ids: dict[str, set[str]], key: str | None = None) -> None:
    if isinstance(value, Mapping):
        for name, item in value.items():
            _collect(item, ids, name if name in ids else key)
        # {split: speakers}: the splits' description of themselves.
        if key == "speakers":
            _collect(value.get("forget", []), ids, "forget_speakers")
    elif isinstance(value, list | tuple | set):
        for item in value:
            _collect(item, ids, key)
    elif key is not None and value not in (None, ""):
        ids[key].add(str(value))
