"""Finds mentions of names in texts, whatever their case, accents, separators and encoding.

A name and a text are both folded (small letters, no accents, few kinds of separators), and a
regular expression made of the name is searched for in the text and in each decoded version of it.
"""

import html
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

# In a folded text, marks where camelCase starts a new word.
BORDER = "\x1f"
SEPARATOR = rf"[-_./\\ {BORDER}]"
WORD = rf"[^-_./\\ {BORDER}]"
LETTER = rf"[^-_./\\ {BORDER}0-9]"
# The rest of the path or utterance id that a name begins: a LibriSpeech chapter has one speaker.
REST = rf"(?:[-_./\\]+(?:{WORD}|{BORDER})+)*"
# Letters that a name needs at least for its parts to be found written together: "Bo Li" in "boli".
JOINED = 4

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
UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ø": "oe", "å": "aa"})
# Scripts without spaces between words, or (Korean) with particles that follow a name directly.
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u11ff\u1780-\u17ff\u2e80-\u312f\u3400-\u9fff\uac00-\ud7ff"
    "\U00020000-\U0003ffff]"
)

ENCODINGS = (
    # Bytes, as in URLs, Python and Git
    r"(?P<percent>(?:%[0-9a-fA-F]{2})+)",
    r"(?P<hex>(?:\\+x[0-9a-fA-F]{2})+)",
    r"(?P<octal>(?:\\+[0-3][0-7]{2})+)",
    # UTF-16, as in JSON: a surrogate pair or a single unit
    r"(?P<pair>\\+u[dD][89abAB]\w\w\\+u[dD][c-fC-F]\w\w)",
    r"(?P<unit>\\+u(?:[0-9a-fA-F]{4}|\{[0-9a-fA-F]{1,5}\}))",
    # HTML
    r"(?P<entity>&(?:#[0-9]+|#[xX][0-9a-fA-F]+|[A-Za-z]\w*);)",
)
ENCODED = re.compile("|".join(ENCODINGS), re.ASCII)
# Decoded separately, because "\nancy" can be a line break before "ancy" or the folder "nancy".
CONTROL = re.compile(r"(?P<control>\\+[abfnrtv])|" + ENCODED.pattern, re.ASCII)
# The 5 in 0.5, 1e5, 1e-5, 5.0 and 5e-1 is not speaker 5. The 0010 in 0.0010 is not speaker 0010,
# but the one in 1.0010-0003 is.
NO_SHORT_FRACTION = r"(?<![0-9]\..)"
NO_FRACTION = rf"(?:{NO_SHORT_FRACTION}|(?=[0-9]*[-_./\\]+{WORD}))"
NO_EXPONENT = r"(?<![0-9]e.)(?<![0-9]e[- ].)"
NO_MANTISSA = rf"(?!\.[0-9]+(?!\.?{WORD}))(?!e[- ]?[0-9])"
# How often a text is decoded at most: %2520 is a space that was encoded twice.
ROUNDS = 3

# A version of a text, and for each of its characters (start, end) in the original text.
Layer = tuple[str, list[tuple[int, int]]]


class Mentions:
    """Finds names in texts.

    "Jane Doe" is also found as jane_doe, JaneDoe, JANE.DOE, Jane%20Doe and xJaneDoe2; "José" as
    Jose, Jos%C3%A9, Jos&eacute; and Jos\\u00e9, in any normal form of Unicode; "Strauß" as STRAUSS;
    and 1089 as spk1089. A name inside a longer word does not count ("Ann" in "annual"), nor does a
    number inside another number (1089 in 21089; 5 in 0.5 and 1e-5). The parts of a name may be
    written together, so "Al Ice" is also found in "alice".
    """

    def __init__(self, names: Iterable[str]):
        self._spellings = [
            (letters, spelling, name)
            for name in sorted(set(names), key=lambda name: (-len(name), name))
            for spelling in _spellings(name)
            if (letters := _letters_alone(_folded(_as_it_is(spelling))[0]))
        ]
        # Cached because the keys of results occur again and again.
        self.find = lru_cache(maxsize=4096)(self._find)

    def __bool__(self) -> bool:
        return bool(self._spellings)

    def _find(self, text: str) -> list[tuple[int, int, str]]:
        """(start, end, name) of all mentions, in order and without overlap.

        A mention includes the rest of the path or id that it begins.
        """
        found = []
        for folded, where in map(_folded, _readings(text)):
            letters_alone = _letters_alone(folded)
            for place, (letters, spelling, name) in enumerate(self._spellings):
                # A fast test that rules out most names.
                if letters in letters_alone:
                    for match in _pattern(spelling).finditer(folded):
                        found.append(
                            (where[match.start()][0], -where[match.end() - 1][1], place, name)
                        )
        kept: list[tuple[int, int, str]] = []
        for start, minus_end, _, name in sorted(found):
            if kept and start < kept[-1][1]:
                kept[-1] = (kept[-1][0], max(kept[-1][1], -minus_end), kept[-1][2])
            else:
                kept.append((start, -minus_end, name))
        return kept

    def replace(self, text: str, by: Callable[[str], str]) -> str:
        """`text` with `by(name)` in place of each mention."""
        for start, end, name in reversed(self.find(text)):
            text = text[:start] + by(name) + text[end:]
        return text


@lru_cache(maxsize=64)
def mentions_of(names: tuple[str, ...]) -> Mentions:
    """`Mentions` of these names, cached."""
    return Mentions(names)


# ---- Patterns of names ---------------------------------------------------------------------------


def _spellings(name: str) -> list[str]:
    """The name, and its spelling without umlauts if it has any: Müller and Mueller."""
    composed = unicodedata.normalize("NFC", name).lower()
    spelled_out = composed.translate(UMLAUTS)
    return [name] if spelled_out == composed else [name, spelled_out]


def _letters_alone(folded: str) -> str:
    return re.sub(SEPARATOR, "", folded)


@lru_cache(maxsize=4096)
def _pattern(name: str) -> re.Pattern:
    """A regular expression that matches a name in folded texts."""
    folded = _folded(_as_it_is(name))[0]
    parts = list(re.finditer(rf"[0-9]+|{LETTER}+", folded))
    long = sum(len(part[0]) for part in parts) >= JOINED or UNSPACED.search(folded)
    body, end = "", 0
    for part in parts:
        if body:
            body += _joint(folded[end - 1], folded[end : part.start()], part[0][0], long)
        body += part[0] if part[0].isdigit() else f"{BORDER}?".join(map(re.escape, part[0]))
        end = part.end()
    digits = len(folded) if re.fullmatch("[0-9]+", folded) else 0
    # A pattern that starts with a letter is searched for fast, so what must not precede the name is
    # tested after its first letter.
    start = re.escape(body[0])
    return re.compile(
        start
        + _not_before(body[0], digits)
        + body[1:]
        + _not_after(parts[-1][0][-1], digits)
        + REST
    )


def _joint(before: str, between: str, after: str, long: bool) -> str:
    """Pattern of what may separate two parts of a name.

    Args:
        before, after: the characters on both sides.
        between: what separates the parts in the name itself.
        long: whether the parts may be written together.
    """
    digits = before.isdigit(), after.isdigit()
    if all(digits):
        return f"{SEPARATOR}+"
    if between.strip(BORDER):
        return f"{SEPARATOR}*" if long or any(digits) else f"{SEPARATOR}+"
    return f"{SEPARATOR}?" if long else f"{BORDER}?"


def _not_before(first: str, digits: int) -> str:
    """Pattern of what must not precede a name. It comes after the name's first letter.

    Args:
        digits: the number of digits if the name is a number, else 0.
    """
    if UNSPACED.match(first):
        return ""
    if not first.isdigit():
        return rf"(?<!{LETTER}{re.escape(first)})"
    no_fraction = ("", NO_SHORT_FRACTION + NO_EXPONENT, NO_FRACTION)[(digits > 0) + (digits > 2)]
    return rf"(?<![0-9]{first})" + no_fraction


def _not_after(last: str, digits: int) -> str:
    """Pattern of what must not follow a name."""
    if UNSPACED.match(last):
        return ""
    if not last.isdigit():
        return f"(?!{LETTER})"
    return "(?![0-9])" + (NO_MANTISSA if 0 < digits <= 2 else "")


# ---- Versions of texts ---------------------------------------------------------------------------


def _as_it_is(text: str) -> Layer:
    """The text itself as a layer."""
    return text, [(i, i + 1) for i in range(len(text))]


def _readings(text: str) -> Iterator[Layer]:
    """The text, and its decoded versions, as long as decoding changes anything."""
    layer = _as_it_is(text)
    yield layer
    if not re.search(r"[%&\\]", text):
        return
    for encoded in (ENCODED, CONTROL):
        read = layer
        for _ in range(ROUNDS):
            before, read = read[0], _decoded(read, encoded)
            if read[0] == before:
                break
            yield read


def _decoded(layer: Layer, encoded: re.Pattern) -> Layer:
    """A text with everything decoded that the pattern matches."""
    text, places = layer
    read, where, at = [], [], 0
    for match in encoded.finditer(text):
        read.append(text[at : match.start()])
        where += places[at : match.start()]
        at = match.start()
        for character, width in _characters(match):
            read.append(character)
            where.append((places[at][0], places[at + width - 1][1]))
            at += width
        at = match.end()
    return "".join([*read, text[at:]]), where + places[at:]


def _characters(match: re.Match) -> Iterator[tuple[str, int]]:
    """The encoded characters, each with the length of its code."""
    kind, code = match.lastgroup, match[0]
    if kind in ("percent", "hex", "octal"):
        units = re.findall(r"%..|\\+x..|\\+\d{3}", code)
        raw = bytes(int(unit[-3:], 8) if kind == "octal" else int(unit[-2:], 16) for unit in units)
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
        units = [int(unit, 16) for unit in re.findall(r"u\{?(\w+)", code)]
        yield (chr(units[0]) if kind == "unit" else _of_pair(*units)), len(code)


def _of_pair(high: int, low: int) -> str:
    """The character of a surrogate pair."""
    return chr(0x10000 + (high - 0xD800) * 0x400 + low - 0xDC00)


def _folded(layer: Layer) -> Layer:
    """A text in small letters without accents, with BORDER where camelCase starts a word.

    Decimal digits of all scripts become 0 to 9. Separators other than - _ . / and the backslash
    become a blank.
    """
    text, places = layer
    folded, where, last = [], [], " "
    for i, c in enumerate(text):
        if _starts_word(last, c, text[i + 1 : i + 2]):
            folded.append(BORDER)
            where.append((places[i][0], places[i][0]))
        plain = _plain(c)
        if not plain and where:
            # An accent belongs to its letter.
            where[-1] = (where[-1][0], places[i][1])
        folded.append(plain)
        where += [places[i]] * len(plain)
        last = c if plain else last
    return "".join(folded), where


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
