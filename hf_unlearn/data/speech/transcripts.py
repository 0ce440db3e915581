"""Styles in which the labels of a speech recogniser are written.

Labels in the recogniser's own style keep unlearning from teaching it another one.
"""

import re
import unicodedata
from collections.abc import Callable

from transformers import PreTrainedTokenizerBase

STYLES = ("own", "sentence", "as_written", "vocabulary")


def as_sentence(text: str, *, spaced: bool = True, english: bool = False) -> str:
    """The text as a pretrained Whisper writes it: " Mixed case, with punctuation."

    A text all in upper or lower case becomes lower case with a capital at its beginning; proper
    names are not recognised. A text in mixed case keeps its case. A full stop is added if there is
    no punctuation at the end. Whisper's tokens include the space before a word, so the text begins
    with one.

    Args:
        spaced: whether the language is written with spaces between words.
        english: whether to write the word "i" with a capital.
    """
    text = " ".join(text.split())
    # A script without capitals does not end sentences with "." either.
    if not text or text.lower() == text.upper():
        return f" {text}" if text and spaced else text
    if text in (text.lower(), text.upper()):
        text = re.sub(r"[^\W\d_]", lambda first: first[0].upper(), text.lower(), count=1)
        text = re.sub(r"\bi\b", "I", text) if english else text
    return f" {text}." if text[-1].isalnum() else f" {text}"


def own_or(
    transcript: str | None, reference: str, plain: str, agree: Callable[[str, str], bool]
) -> str:
    """The model's own transcript of an utterance if it agrees with the reference, or there is no
    reference; else the reference in a plain style.

    Args:
        transcript: the model's transcript; None if it gave none.
        reference: the text of the data; perhaps empty.
        plain: the reference, rewritten.
        agree: whether two texts are the same but for their style.
    """
    if (
        transcript is not None
        and transcript.strip()
        and (not reference.strip() or agree(transcript, reference))
    ):
        return transcript
    return plain


def in_vocabulary(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text as a CTC tokenizer with characters as tokens can write it: in the case of its
    letters if it has only one case, and without the punctuation that it does not have.

    An apostrophe is written as the tokenizer writes it. Other characters stay, so that `prepare`
    can name those that the tokenizer does not have.
    """
    characters = "".join(set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens))
    if not set(text) <= set(characters):
        text = text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    if characters == characters.upper() != characters.lower():
        text = text.upper()
    elif characters == characters.lower() != characters.upper():
        text = text.lower()
    letters = (
        c if c in characters or unicodedata.category(c)[0] not in "PS" else " " for c in text
    )
    return " ".join("".join(letters).split())
