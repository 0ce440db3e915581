"""What keeps the names of forgotten persons, and tokens, out of everything that is published."""

import hashlib
import os
import re
import secrets
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from .mentions import Mentions, mentions_of

# keys of lists of ids; hide_names is what a user of the plain trainer gives
# (`UnlearnConfig.hide_names`)
IDENTIFYING = (
    "forget_speakers",
    "forget_ids",
    "retain_speakers",
    "retain_ids",
    "speakers",
    "hide_names",
)
SALT = ".salt"  # beside results.json; never uploaded


def salt_of(folder: Path) -> str:
    """The salt of a run's pseudonyms, made once: its card, its results and later uploads speak of
    the same pseudonym.

    The file is readable by its owner alone: with the salt, anyone can try all ids.
    """
    path = Path(folder) / SALT
    # an empty one, as a full disk leaves it, would hide nothing
    if not path.exists() or not path.read_text():
        partial = path.with_name(f"{SALT}.{os.getpid()}")
        partial.touch(mode=0o600)
        partial.write_text(secrets.token_hex(16))
        os.replace(partial, path)
    return path.read_text()


def hide_tokens(text: str) -> str:
    """Access tokens in a command line or message become `***`: those of the Hub, and what follows
    --<...>token."""
    text = re.sub(r"(--\w*token[ =])\S+", r"\1***", text)
    return re.sub(r"\bhf_[A-Za-z0-9]{8,}", "***", text)


def redact(results: dict, salt: str) -> dict:
    """A copy of `results` without the forgotten speakers' ids; for everything that is published.

    - Every id under a key of IDENTIFYING becomes its pseudonym: the retained speakers' too, since
      whoever has the data set would find the missing one.
    - In every other text (command, paths, keys) a forgotten speaker's or utterance's id becomes its
      pseudonym, with the rest of its path or utterance id, however it is spelled or encoded (see
      `Mentions`). A very short id can so take an innocent number with it: what is published errs on
      the side of silence.
    - `environment` is kept: it holds no text of the user's.

    The same salt gives the same pseudonyms. Keep it to yourself: with it anyone can try all ids.

    Raises:
        ValueError: no forgotten speaker is named, so that it is not known what to hide.
    """
    ids = {key: set() for key in IDENTIFYING}
    _collect(results, ids)
    forgotten = ids["forget_speakers"] | ids["hide_names"]
    if not forgotten:
        raise ValueError(
            "results names no forget_speakers in its config or data, so it is not known whom to "
            "hide: "
            "put them there, or publish the names knowingly with name_forgotten=True."
        )
    # row numbers: they name nobody
    numbered = {name for name in ids["forget_ids"] if name.isdigit()}
    named = forgotten | ids["retain_speakers"]
    speakers = mentions_of(tuple(sorted(named)))
    # ids that a mention of their speaker takes with it need no patterns of their own
    further = {
        name for name in ids["forget_ids"] - numbered if speakers.replace(name, lambda _: "")
    }
    mentions = Mentions(named | further) if further else speakers
    everyone = set().union(*ids.values())

    def clean(value, identifies=False):
        if isinstance(value, dict):
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


def without_paths(value):
    """`value` with only the last part of every absolute path in its texts: the rest speaks of
    somebody's machine."""
    if isinstance(value, dict):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(item) for item in value]
    return (
        re.sub(r"(?<![\w.:/])(?:~|[A-Za-z]:)?/(?:[^\s/'\"]+/)+", "", value)
        if isinstance(value, str)
        else value
    )


def without_names(value, names: list[str]):
    """`value` with `hidden` in the place of whatever mentions one of `names` in its texts, as
    `Mentions` finds it."""
    mentions = mentions_of(tuple(names))

    def clean(value):
        if isinstance(value, dict):
            return _distinct((clean(key), clean(item)) for key, item in value.items())
        if isinstance(value, list | tuple):
            return [clean(item) for item in value]
        return mentions.replace(value, lambda name: "hidden") if isinstance(value, str) else value

    return clean(value) if mentions else value


def texts_of(value) -> Iterator[str]:
    """All texts in `value`, keys among them."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from (str(key), *texts_of(item))
    elif isinstance(value, list | tuple | set):
        for item in value:
            yield from texts_of(item)
    elif isinstance(value, str):
        yield value


def hides(results: dict, personal: bool) -> bool:
    """Whether something of `results` must not be published: its task forgets persons, or its user
    named what to hide."""
    ids = {key: set() for key in IDENTIFYING}
    _collect(results, ids)
    return personal or bool(ids["hide_names"])


def hidden_names(results: dict) -> list[str]:
    """The ids of the forgotten persons, and what else the user wants hidden."""
    ids = {key: set() for key in IDENTIFYING}
    _collect(results, ids)
    return sorted(ids["forget_speakers"] | ids["hide_names"])


def names_somebody(text: str, names: list[str]) -> bool:
    """Whether `text` mentions one of `names`, as `Mentions` finds it."""
    return bool(mentions_of(tuple(names)).find(text))


def pseudonym(identifier, salt: str) -> str:
    """First 8 hex digits of sha256(salt + id), in whatever form of Unicode the id is written."""
    composed = unicodedata.normalize("NFC", str(identifier))
    return hashlib.sha256(f"{salt}{composed}".encode()).hexdigest()[:8]


def _distinct(items) -> dict:
    """A dict of pairs, where keys that have become the same (anna_wer and anna_loss) are
    numbered."""
    result: dict = {}
    for key, item in items:
        alike, number = key, 1
        while alike in result:
            number += 1
            alike = f"{key}-{number}"
        result[alike] = item
    return result


def _collect(value, ids, key=None):
    """Adds to ids[key] what `value` holds under each identifying key."""
    if isinstance(value, dict):
        for name, item in value.items():
            _collect(item, ids, name if name in ids else key)
        if key == "speakers":  # {split: speakers}, as the splits describe themselves
            _collect(value.get("forget", []), ids, "forget_speakers")
    elif isinstance(value, list | tuple | set):
        for item in value:
            _collect(item, ids, key)
    elif key is not None and value not in (None, ""):
        ids[key].add(str(value))
