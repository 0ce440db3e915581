"""Normalisers by name and by language: they keep real errors in every language, and do not depend
on what a tokenizer knows about spelling."""

import pytest
from transformers import WhisperTokenizer

from hf_unlearn.metrics import character_errors, error_rate, word_errors
from hf_unlearn.metrics.normalizers import is_unspaced, language_code, normalizer
from tests.support.tiny_speech import letter_tokenizer


@pytest.mark.parametrize(
    ("language", "said", "reference"),
    [
        # differs in a vowel sign, which is a mark
        ("hi", "कल आना", "कुल आना"),
        ("de", "schon um acht", "schön um acht"),
        # "um" is a filler in English only
        ("de", "er kommt acht", "er kommt um acht"),
        ("ar", "كتب الولد", "كتاب الولد"),
        ("th", "ขาว", "ข่าว"),
        ("fr", "la peche", "la pêche"),
    ],
)
def test_errors_in_other_languages_still_count(language, said, reference):
    name, clean, _ = normalizer(True, language)
    assert name == "basic" and clean(said) != clean(reference)


@pytest.mark.parametrize(
    ("language", "said", "reference"),
    [
        ("de", " Guten Tag, Herr Müller!", "guten tag herr müller"),
        # the same letter in two encodings
        ("fr", "C\u0327a va ?", "ça va"),
        ("hi", "नमस्ते।", "नमस्ते"),
        ("zh", "你好，世界。", "你好世界"),
        ("tr", "İstanbul", "istanbul"),
        ("fa", "می\u200cروم", "میروم"),
        ("en", "Mr. Brown's colour", "mister brown's color"),
    ],
)
def test_spelling_and_punctuation_do_not_count(language, said, reference):
    clean = normalizer(True, language)[1]
    assert clean(said) == clean(reference)


def test_languages_without_spaces_count_characters():
    clean = normalizer(True, "Chinese")[1]
    said, reference = [clean("今天天气很坏")], [clean("今天天气很好")]
    assert error_rate(*character_errors(said, reference)) == pytest.approx(100 / 6)
    assert error_rate(*word_errors(said, reference)) == 100.0


def test_a_normaliser_is_chosen_by_name_or_is_a_function():
    assert normalizer("english")[1]("Twenty five colours") == "25 colors"
    for choice in ("none", False):
        assert normalizer(choice, "en")[1](" As it IS. ") == "As it IS."
    assert normalizer(str.upper) == ("upper", str.upper, False)
    assert [normalizer(choice)[0] for choice in (True, "true", "False", "BASIC")] == [
        "english",
        "english",
        "none",
        "basic",
    ]
    with pytest.raises(
        ValueError, match="normalize is 'german', but must be one of english, basic, none"
    ):
        normalizer("german")


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ("English", "en"),
        ("<|de|>", "de"),
        ("pt-BR", "pt"),
        ("zh_CN", "zh"),
        ("mandarin", "zh"),
        (None, None),
    ],
)
def test_every_name_of_a_language_gives_its_code(given, code):
    assert language_code(given) == code


def whisper(words: list[str], end: int = 0) -> WhisperTokenizer:
    """A tokenizer with the letters of some words.

    Args:
        end: number of the end token, by default the next one.
    """
    letters = sorted({letter for word in words for letter in word})
    vocabulary = {letter: i for i, letter in enumerate(letters)} | {
        "<|endoftext|>": end or len(letters)
    }
    return WhisperTokenizer(vocab=vocabulary, merges=[])


def test_the_vocabulary_decides_if_the_language_is_unknown():
    assert normalizer(True, None, whisper(["Ġcolor"]))[0] == "english"
    assert normalizer(True, None, whisper(["schÃ¶n"]))[0] == "basic"
    # Whisper's English tokenizer has all bytes, but is known by its end token.
    assert normalizer(True, None, whisper(["schÃ¶n"], end=50256))[0] == "english"
    tokenizer = whisper(["color"])
    tokenizer.language = "german"
    assert normalizer(True, None, tokenizer)[0] == "basic"
    assert normalizer(True, "en", tokenizer)[0] == "english"


def test_the_script_of_the_vocabulary_tells_whether_words_have_spaces(tmp_path):
    """As that of a Chinese CTC model, whose tokenizer has no language."""
    for letters, unspaced in (
        ("今天好abc", False),
        ("今天天气很好ab", True),
        ("สวัดีค", True),
        ("ひるa", True),
    ):
        tokenizer = letter_tokenizer(tmp_path, "<pad>", "<unk>", "|", *letters)
        assert is_unspaced(None, tokenizer) is unspaced
        # A language that is known decides.
        assert is_unspaced("ja", tokenizer) and not is_unspaced("ko", tokenizer)
    assert normalizer(True, None, tokenizer)[1]("ひ る") == "ひる"
    assert not is_unspaced(None, whisper(["ä½", "å¤©"]))
