"""Text normalisers for speech recognition, by name and by language: which differences between two
texts do not count as errors."""

import functools
import json
import re
import unicodedata
from collections.abc import Callable
from importlib import resources
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase
from transformers.models.whisper.english_normalizer import EnglishTextNormalizer
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

NORMALIZERS = ("english", "basic", "none")
# Languages that are written without spaces between words. Their word error rate would count whole
# sentences.
UNSPACED = frozenset({"zh", "yue", "cmn", "ja", "th", "lo", "my", "km", "bo"})
# The first words of the Unicode names of these languages' letters.
UNSPACED_SCRIPTS = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "MYANMAR", "KHMER", "TIBETAN")
# The number of the end token in Whisper's English vocabulary.
ENGLISH_END_TOKEN = 50256


def language_code(language: str | None) -> str | None:
    """The code of a language, which may be given by its code or English name: "de" for "German",
    "<|de|>" and "de-AT". None for None."""
    if language is None:
        return None
    name = language.strip().lower().removeprefix("<|").removesuffix("|>")
    return TO_LANGUAGE_CODE.get(name, re.split("[-_]", name)[0])


class Normalizer(NamedTuple):
    """How texts are compared.

    Attributes:
        name: one of `NORMALIZERS`, or a function's.
        clean: normalises a text.
        unspaced: whether the language is written without spaces between words.
    """

    name: str
    clean: Callable[[str], str]
    unspaced: bool


def normalizer(
    choice: bool | str | Callable[[str], str],
    language: str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Normalizer:
    """A normaliser by its name or by the language.

    Args:
        choice: one of `NORMALIZERS`, or a function of a text. True selects by language, False is
            "none".
        language: code or English name. By default the tokenizer's language. If that is unknown,
            too, the tokenizer's vocabulary decides.

    Raises:
        ValueError: an unknown name.
    """
    language = language_code(language or getattr(tokenizer, "language", None))
    if callable(choice):
        name = getattr(choice, "__name__", type(choice).__name__)
        return Normalizer(name, choice, is_unspaced(language, tokenizer))
    name = str(choice).strip().lower()
    if name == "true":
        name = by_language(language, tokenizer)
        if name == "english":
            # Known without searching the vocabulary again.
            return Normalizer(name, english, unspaced=False)
    elif name == "false":
        name = "none"
    if name not in NORMALIZERS:
        raise ValueError(
            f"normalize is {choice!r}, but must be one of {', '.join(NORMALIZERS)}, true, false or "
            "a function"
        )
    no_spaces = is_unspaced(language, tokenizer)
    if name == "basic" and no_spaces:
        return Normalizer(name, unspaced, no_spaces)
    clean = {"english": english, "basic": basic, "none": str.strip}[name]
    return Normalizer(name, clean, no_spaces)


def by_language(language: str | None, tokenizer: PreTrainedTokenizerBase | None = None) -> str:
    """The name of the normaliser for a language: "english" for English, "basic" for others.

    If the language is unknown, it is English unless the tokenizer can write other letters.
    """
    if language is not None:
        return "english" if language == "en" else "basic"
    return "english" if tokenizer is None or writes_english_only(tokenizer) else "basic"


def is_unspaced(language: str | None, tokenizer: PreTrainedTokenizerBase | None = None) -> bool:
    """Whether a language is written without spaces between words.

    For an unknown language the vocabulary decides: whether most of the tokenizer's tokens with
    letters are in scripts without such spaces.

    Args:
        language: code or English name.
    """
    if language is not None or tokenizer is None:
        return language_code(language) in UNSPACED
    tokens = set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)
    letters = [next(filter(str.isalpha, token), None) for token in tokens]
    names = [unicodedata.name(letter, "") for letter in letters if letter is not None]
    return 2 * sum(name.startswith(UNSPACED_SCRIPTS) for name in names) > len(names)


def writes_english_only(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer is Whisper's English one, or has ASCII letters only."""
    vocabulary = tokenizer.get_vocab()
    if vocabulary.get("<|endoftext|>") == ENGLISH_END_TOKEN:
        return True
    tokens = set(vocabulary) - set(tokenizer.all_special_tokens)
    # Tokenizers mark the start of a word by one of these.
    return "".join(tokens).translate({ord("Ġ"): "", ord("▁"): ""}).isascii()


@functools.cache
def _english() -> EnglishTextNormalizer:
    # The spelling map comes with this package, because many tokenizers lose theirs when they are
    # saved, or never had one.
    spelling = json.loads(
        resources.files(__package__).joinpath("english_spelling.json").read_text(encoding="utf-8")
    )
    return EnglishTextNormalizer(spelling)


def english(text: str) -> str:
    """Whisper's English normaliser: digits for numbers, "color" for "colour", and neither
    punctuation, fillers nor accents."""
    return _english()(text)


def basic(text: str) -> str:
    """Lower case without punctuation, symbols and text in brackets. Unlike Whisper's basic
    normaliser it keeps the marks of letters."""
    # The dot is what lower() leaves of the Turkish capital I with a dot.
    text = unicodedata.normalize("NFKC", text).lower().replace("i\u0307", "i")
    text = re.sub(r"[<\[][^>\]]*[>\]]|\([^)]*\)", " ", text)
    letters = map(_letter_or_space, unicodedata.normalize("NFC", text))
    return " ".join("".join(letters).split())


def unspaced(text: str) -> str:
    """`basic` without spaces, for languages in which they carry no meaning."""
    return basic(text).replace(" ", "")


def _letter_or_space(character: str) -> str:
    """Keeps letters, marks and numbers, removes invisible characters, and replaces others by a
    space."""
    category = unicodedata.category(character)
    # Joiners and marks of writing direction.
    if category == "Cf":
        return ""
    return character if category[0] in "LMN" else " "
