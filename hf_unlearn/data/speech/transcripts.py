"""In which style the labels of a recogniser are written: its own, so that unlearning does not teach
it another one."""

import re
from collections.abc import Callable

STYLES = ("own", "sentence", "as_written")


def as_sentence(text: str, *, spaced: bool = True, english: bool = False) -> str:
    """The text as a pretrained Whisper writes it: " Mixed case, with punctuation."

    A text in one case gets a capital at its beginning, and a full stop at its end (proper names
    cannot be known); a text in mixed case keeps it. Whisper's tokens hold the space before a word,
    so one stands before the first word, too.

    Args:
        spaced: whether the language is written with spaces between words.
        english: whether the word "i" is written with a capital.
    """
    text = " ".join(text.split())
    # a script without capitals, where a full stop is no "." either
    if not text or text.lower() == text.upper():
        return f" {text}" if text and spaced else text
    if text in (text.lower(), text.upper()):
        text = re.sub(r"[^\W\d_]", lambda first: first[0].upper(), text.lower(), count=1)
        text = re.sub(r"\bi\b", "I", text) if english else text
    return f" {text}." if text[-1].isalnum() else f" {text}"


def own_or_sentence(
    said: str | None, reference: str, agree: Callable[[str, str], bool], **language: bool
) -> str:
    """What a model itself says of an utterance, where it agrees with the reference or there is
    none; else a sentence.

    Args:
        language: further arguments of `as_sentence`.
    """
    if said is not None and said.strip() and (not reference.strip() or agree(said, reference)):
        return said
    return as_sentence(reference, **language)
