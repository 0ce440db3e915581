"""Folds texts for the search for names, and decodes them, keeping track of each character's place.

A folded text has small letters without accents, and few kinds of separators.
"""

import html
import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from html.entities import html5

# In a folded text, marks where camelCase starts a new word.
BORDER = "\x1f"
# Letters that Unicode does not decompose, as people write them without such a keyboard.
PLAIN = str.maketrans(
    {
        "ı": "i",
        "ø": "o",
        "đ": "d",
        "ð": "d",
        "ł": "l",
        "ħ": "h",
        "æ": "ae",
        "œ": "oe",
        "þ": "th",
        "ʼ": "'",
        "ʻ": "'",
        "ʹ": "'",
        "\u0640": "",
        "\u200c": " ",
    }
)

OLD_ENTITIES = "|".join(
    sorted((name for name in html5 if not name.endswith(";")), key=len, reverse=True)
)
# The characters of the bytes 0x80 to 0x9f in Windows' Latin-1.
HIGH = "€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"
ENCODINGS = (
    # Bytes, as in URLs, Python and Git
    r"(?P<percent>(?:%[0-9a-fA-F]{2})+)",
    r"(?P<hex>(?:\\+x[0-9a-fA-F]{2})+)",
    r"(?P<octal>(?:\\+[0-3][0-7]{2})+)",
    # UTF-16, as in JSON: a surrogate pair or a single unit
    r"(?P<pair>\\+u[dD][89abAB]\w\w\\+u[dD][c-fC-F]\w\w)",
    r"(?P<unit>(?:\\+u|%u)(?:[0-9a-fA-F]{4}|\{[0-9a-fA-F]{1,5}\})|\\+U[0-9a-fA-F]{8})",
    # HTML, where the semicolon may be missing after numbers and old names
    rf"(?P<entity>&(?:#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[A-Za-z]\w*;|{OLD_ENTITIES}))",
    # UTF-8 that was read as Latin-1: Ã© for é
    rf"(?P<misread>[\u00c2-\u00f4][\u0080-\u00bf{HIGH}]{{1,3}})",
)
ENCODED = re.compile("|".join(ENCODINGS), re.ASCII)
# Decoded separately, because "\nancy" can be a line break before "ancy" or the folder "nancy".
CONTROL = re.compile(r"(?P<control>\\+[abfnrtv])|" + ENCODED.pattern, re.ASCII)
# The bytes of e-mails, also decoded separately: the =AD in "name=ADAM" is not one.
MAIL = re.compile(r"(?P<mail>(?:=[0-9A-F]{2})+)|" + CONTROL.pattern, re.ASCII)
# How often a text is decoded at most: %2520 is a space that was encoded twice.
ROUNDS = 3

# A version of a text, and for each of its characters (start, end) in the original text.
Layer = tuple[str, list[tuple[int, int]]]


def as_it_is(text: str) -> Layer:
    """The text itself as a layer."""
    return text, [(i, i + 1) for i in range(len(text))]


def versions(text: str) -> Iterator[Layer]:
    """The text, and its decoded versions, as long as decoding changes anything."""
    layer = as_it_is(text)
    yield layer
    if not MAIL.search(text):
        return
    for encoded in (ENCODED, CONTROL, MAIL):
        read = layer
        for _ in range(ROUNDS):
            before, read = read[0], _decoded(read, encoded)
            if read[0] == before:
                break
            yield read


def _decoded(layer: Layer, encoded: re.Pattern) -> Layer:
    """A text with everything decoded that the pattern matches."""
    text, spans = layer
    read, where, at = [], [], 0
    for match in encoded.finditer(text):
        read.append(text[at : match.start()])
        where += spans[at : match.start()]
        at = match.start()
        for character, width in _characters(match):
            read.append(character)
            where.append((spans[at][0], spans[at + width - 1][1]))
            at += width
        at = match.end()
    return "".join([*read, text[at:]]), where + spans[at:]


def _characters(match: re.Match) -> Iterator[tuple[str, int]]:
    """The encoded characters, each with the length of its code."""
    kind, code = match.lastgroup, match[0]
    if kind in ("percent", "hex", "octal", "mail", "misread"):
        units = re.findall(r"[%=]..|\\+x..|\\+\d{3}", code) or list(code)
        raw = b"".join(_byte(unit, kind) for unit in units)
        try:
            characters = [(c, len(c.encode())) for c in raw.decode()]
        except UnicodeDecodeError:
            characters = [(c, 1) for c in raw.decode("latin-1")]
        for c, size in characters:
            yield c, sum(map(len, units[:size]))
            units = units[size:]
    elif kind == "entity":
        yield html.unescape(code)[:1] or " ", len(code)
    elif kind == "control":
        yield " ", len(code)
    else:
        units = [int(unit, 16) for unit in re.findall(r"[uU]\{?(\w+)", code)]
        yield (chr(units[0]) if kind == "unit" else _of_pair(*units)), len(code)


def _byte(unit: str, kind: str) -> bytes:
    """The byte that a code such as %C3 stands for."""
    if kind == "misread":
        return unit.encode("cp1252" if unit in HIGH else "latin-1")
    return bytes([int(unit[-3:], 8) if kind == "octal" else int(unit[-2:], 16)])


def _of_pair(high: int, low: int) -> str:
    """The character of a surrogate pair."""
    return chr(0x10000 + (high - 0xD800) * 0x400 + low - 0xDC00)


def fold(layer: Layer) -> Layer:
    """A text in small letters without accents, with BORDER where camelCase starts a word.

    Decimal digits of all scripts become 0 to 9. Separators other than - _ . / and the backslash
    become a blank.
    """
    text, spans = layer
    characters, where, last = [], [], " "
    for i, c in enumerate(text):
        if _starts_word(last, c, text[i + 1 : i + 2]):
            characters.append(BORDER)
            where.append((spans[i][0], spans[i][0]))
        plain = _plain(c)
        if not plain and where:
            # An accent belongs to its letter.
            where[-1] = (where[-1][0], spans[i][1])
        characters.append(plain)
        where += [spans[i]] * len(plain)
        last = c if plain else last
    return "".join(characters), where


def _starts_word(last: str, c: str, following: str) -> bool:
    """Whether `c` starts a word in camelCase: the D in janeDoe, the second D in JDDoe."""
    return c.isupper() and (last.islower() or last.isupper() and following.islower())


@lru_cache(maxsize=4096)
def _plain(character: str) -> str:
    """What a character becomes in a folded text; "" for an accent."""
    parts = unicodedata.normalize("NFKD", character.translate(PLAIN)).casefold().translate(PLAIN)
    return "".join(map(_kept, unicodedata.normalize("NFKD", parts)))


def _kept(c: str) -> str:
    kind, accent = unicodedata.category(c), unicodedata.combining(c)
    # Accents of Latin, Greek and Cyrillic letters, and vowel points of Hebrew and Arabic. In other
    # scripts, vowel signs count as letters.
    if accent >= 200 or 10 <= accent <= 36:
        return ""
    # Invisible characters, such as the zero width space.
    if kind == "Cf":
        return BORDER
    if kind == "Nd":
        return str(unicodedata.decimal(c))
    return c if kind[0] in "LMN" or kind == "So" or c in "-_./\\" else " "
