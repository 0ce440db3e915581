"""Which differences between two texts are no errors: normalisers for speech recognition, by name
and by language."""

import functools
import json
import re
import unicodedata
from collections.abc import Callable
from importlib import resources

from transformers.models.whisper.english_normalizer import EnglishTextNormalizer
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

NORMALIZERS = ("english", "basic", "none")
# Languages written without spaces between words: a word error rate would count whole sentences.
UNSPACED = frozenset({"zh", "yue", "cmn", "ja", "th", "lo", "my", "km", "bo"})
ENGLISH_ONLY = 50256  # the end token's number in Whisper's English vocabulary


def language_code(language: str | None) -> str | None:
    """The code of a language that is given by its code or its English name: "German", "<|de|>" and
    "de-AT" are "de"."""
    if language is None:
        return None
    name = language.strip().lower().removeprefix("<|").removesuffix("|>")
    return TO_LANGUAGE_CODE.get(name, re.split("[-_]", name)[0])


def normalizer(
    choice: bool | str | Callable[[str], str], language: str | None = None, tokenizer=None
) -> tuple[str, Callable[[str], str]]:
    """The name of a normaliser and the function of a text that it is.

    Args:
        choice: one of `NORMALIZERS`, or a function of a text. True: by the language; False: "none".
        language: code or English name; None: that of the tokenizer, which decides by its vocabulary
            if it has none.

    Raises:
        ValueError: an unknown name.
    """
    if callable(choice):
        return getattr(choice, "__name__", type(choice).__name__), choice
    language = language_code(language or getattr(tokenizer, "language", None))
    name = str(choice).strip().lower()
    if name == "true":
        name = by_language(language, tokenizer)
    functions = {
        "english": english,
        "basic": unspaced if language in UNSPACED else basic,
        "none": str.strip,
    }
    functions["false"] = functions["none"]
    if name not in functions:
        raise ValueError(
            f"normalize is {choice!r}, but must be one of {', '.join(NORMALIZERS)}, true, false or "
            "a function"
        )
    return "none" if name == "false" else name, functions[name]


def by_language(language: str | None, tokenizer=None) -> str:
    """ "english" for English, "basic" for others. Where the language is not known, the letters of
    the vocabulary tell."""
    if language is not None:
        return "english" if language == "en" else "basic"
    return "english" if tokenizer is None or writes_english_only(tokenizer) else "basic"


def writes_english_only(tokenizer) -> bool:
    """Whether a tokenizer is Whisper's English one, or one whose letters are all of ASCII."""
    vocabulary = tokenizer.get_vocab()
    if vocabulary.get("<|endoftext|>") == ENGLISH_ONLY:
        return True
    tokens = set(vocabulary) - set(tokenizer.all_special_tokens)
    return "".join(tokens).translate({ord("Ġ"): "", ord("▁"): ""}).isascii()


@functools.cache
def _english() -> EnglishTextNormalizer:
    # The map is the metric's own: a saved tokenizer has lost it, and others never had it.
    spelling = json.loads(
        resources.files(__package__).joinpath("english_spelling.json").read_text(encoding="utf-8")
    )
    return EnglishTextNormalizer(spelling)


def english(text: str) -> str:
    """Whisper's English normaliser: numbers in digits, "colour" is "color", no punctuation, fillers
    or accents."""
    return _english()(text)


def basic(text: str) -> str:
    """Lower case without punctuation, symbols and what stands in brackets; letters keep their marks
    (unlike Whisper's)."""
    # of the Turkish capital
    text = unicodedata.normalize("NFKC", text).lower().replace("i\u0307", "i")
    text = re.sub(r"[<\[][^>\]]*[>\]]|\([^)]*\)", " ", text)
    return " ".join("".join(map(_kept, unicodedata.normalize("NFC", text))).split())


def unspaced(text: str) -> str:
    """As `basic`, and without spaces: in a language that needs none they say nothing."""
    return basic(text).replace(" ", "")


def _kept(letter: str) -> str:
    kind = unicodedata.category(letter)
    if kind == "Cf":  # joiners and marks of direction, which nobody sees
        return ""
    return letter if kind[0] in "LMN" else " "
