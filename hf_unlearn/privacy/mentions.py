"""Finds mentions of names in texts, whatever their case, accents, separators and encoding.

A name and a text are both folded (small letters, no accents, few kinds of separators), and a
regular expression made of the name is searched for in the text and in each decoded version of it.
"""

import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import lru_cache

from .folding import BORDER, as_it_is, fold, versions

SEPARATOR = rf"[-_./\\ {BORDER}]"
WORD = rf"[^-_./\\ {BORDER}]"
LETTER = rf"[^-_./\\ {BORDER}0-9]"
# The rest of the path or utterance id that a name begins: a LibriSpeech chapter has one speaker.
REST = rf"(?:[-_./\\]+(?:{WORD}|{BORDER})+)*"
# Letters that a name needs at least for its parts to be found written together: "Bo Li" in "boli".
JOINED = 4

SPELLED_OUT = re.compile("([aou])e")
UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ø": "oe", "å": "aa"})
# Scripts without spaces between words, or (Korean) with particles that follow a name directly.
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u11ff\u1780-\u17ff\u2e80-\u312f\u3400-\u9fff\uac00-\ud7ff"
    "\U00020000-\U0003ffff]"
)

# The 5 in 0.5, 1e5, 1e-5, 5.0 and 5e-1 is not speaker 5. The 0010 in 0.0010 is not speaker 0010,
# but the one in 1.0010-0003 is.
NO_SHORT_FRACTION = r"(?<![0-9]\..)"
NO_FRACTION = rf"(?:{NO_SHORT_FRACTION}|(?=[0-9]*[-_./\\]+{WORD}))"
NO_EXPONENT = r"(?<![0-9]e.)(?<![0-9]e[- ].)"
NO_MANTISSA = rf"(?!\.[0-9]+(?!\.?{WORD}))(?!e[- ]?[0-9])"


class Mentions:
    """Finds names in texts.

    "Jane Doe" is also found as jane_doe, JaneDoe, JANE.DOE, "Doe, Jane", Jane%20Doe and xJaneDoe2;
    "José" as Jose, Jos%C3%A9, Jos&eacute; and Jos\\u00e9, in any normal form of Unicode; "Strauß"
    as STRAUSS; and 1089 as spk1089. A name inside a longer word does not count ("Ann" in "annual"),
    nor does a number inside another number (1089 in 21089; 5 in 0.5 and 1e-5), nor a name in
    another script ("Yuliya" for "Юлия"). The parts of a name may be
    written together, so "Al Ice" is also found in "alice".
    """

    def __init__(self, names: Iterable[str]):
        self._spellings = [
            (letters, spelling, name)
            for name in sorted(set(names), key=lambda name: (-len(name), name))
            for spelling in _spellings(name)
            if (letters := _letters_alone(fold(as_it_is(spelling))[0]))
        ]
        # Cached because the keys of results occur again and again.
        self.find = lru_cache(maxsize=4096)(self._find)

    def __bool__(self) -> bool:
        return bool(self._spellings)

    def _find(self, text: str) -> list[tuple[int, int, str]]:
        """(start, end, name) of all mentions, in order and without overlap.

        A mention includes the rest of the path or id that it begins.
        """
        matches = []
        for folded, where in map(fold, versions(text)):
            letters_alone = _letters_alone(folded)
            for number, (letters, spelling, name) in enumerate(self._spellings):
                # A fast test that rules out most names.
                if letters in letters_alone:
                    for match in _pattern(spelling).finditer(folded):
                        matches.append(
                            (where[match.start()][0], -where[match.end() - 1][1], number, name)
                        )
        kept: list[tuple[int, int, str]] = []
        for start, minus_end, _, name in sorted(matches):
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


def _spellings(name: str) -> list[str]:
    """The name; with umlauts spelled out (Mueller for Müller) or put back, as far as a text without
    accents tells (Muller for Mueller); and with the last of several words first (Doe, Jane)."""
    composed = unicodedata.normalize("NFC", name).lower()
    spellings = [name, composed.translate(UMLAUTS)]
    # The e of a very short name is more likely a letter of its own: Joe.
    if len(shorter := SPELLED_OUT.sub(r"\1", composed)) >= JOINED:
        spellings.append(shorter)
    words = composed.split()
    if len(words) > 1 and not any(map(str.isdigit, composed)):
        spellings.append(" ".join([words[-1], *words[:-1]]))
    unique: dict[str, str] = {}
    for spelling in spellings:
        unique.setdefault(fold(as_it_is(spelling))[0], spelling)
    return list(unique.values())


def _letters_alone(folded: str) -> str:
    return re.sub(SEPARATOR, "", folded)


@lru_cache(maxsize=4096)
def _pattern(name: str) -> re.Pattern:
    """A regular expression that matches a name in folded texts."""
    folded = fold(as_it_is(name))[0]
    parts = list(re.finditer(rf"[0-9]+|{LETTER}+", folded))
    long = sum(len(part[0]) for part in parts) >= JOINED or UNSPACED.search(folded)
    body, end = "", 0
    for part in parts:
        if body:
            body += _joint(folded[end - 1], folded[end : part.start()], part[0][0], long)
        body += part[0] if part[0].isdigit() else _letters(part[0])
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


def _letters(part: str) -> str:
    """Pattern of a part of a name. In scripts without spaces, one may stand between its signs."""
    pattern = re.escape(part[0])
    for before, after in itertools.pairwise(part):
        unspaced = UNSPACED.match(before) and UNSPACED.match(after)
        pattern += (f"{SEPARATOR}?" if unspaced else f"{BORDER}?") + re.escape(after)
    return pattern


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
