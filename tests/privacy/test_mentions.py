"""Every spelling of a name is found, and unrelated text is left alone."""

import html
import itertools
import json
import quopri
import re
import unicodedata
from urllib.parse import quote

import pytest

from hf_unlearn.privacy.mentions import Mentions
from tests.support.texts import bare

NAMES = [
    "Jane Doe",
    "José",
    "Strauß",
    "İpek",
    "ılgaz",
    "Nguyễn Văn Đức",
    "محمد",
    "علي رضا",
    "王小明",
    "王 小明",
    "さくら",
    "김철수",
    "Σίσυφος",
    "Анна Каренина",
    "प्रिया शर्मा",
    "สมชาย",
    "שרה כהן",
    "O'Brien",
    "Jean-Luc",
    "Björk Guðmundsdóttir",
    "Łukasz Żak",
    "Bo Li",
    "Æther",
    "Ann",
    "anna-karenina",
    "JaneDoe",
    "McDonald",
    "1089",
    "0010",
    "42",
    "spk-0012",
    "p225",
    "en-us+f3",
    "19-198",
]
FORMS = ["NFC", "NFD", "NFKC", "NFKD"]
CASES = [str, str.lower, str.upper, str.casefold, str.title, str.swapcase]
# None keeps the separators of the name.
SEPARATORS = [None, "", " ", "_", "-", ".", "/", "\u00a0", " - "]
PLACES = [
    "{}",
    "speaker {} said",
    "out/run_{}/model",
    "https://hub.co/a/{}?x=1",
    "{}_0001.wav",
    "--forget_speakers={}",
    "({})",
    "'{}'",
    "of {}.",
    "x: {}, y",
    "line\\n{}\\tend",
    "{}'s voice",
    "a\u200b{}",
    "\u2066{}\u2069",
]
ENCODINGS = {
    "plain": str,
    "percent": lambda text: quote(text, safe="/:=?"),
    "percent in small letters": lambda text: re.sub(
        "%..", lambda code: code[0].lower(), quote(text)
    ),
    "percent, twice": lambda text: quote(quote(text)),
    "every letter in percent": lambda text: "".join(f"%{byte:02X}" for byte in text.encode()),
    "HTML": lambda text: html.escape(text).encode("ascii", "xmlcharrefreplace").decode(),
    "HTML in hex": lambda text: "".join(c if c.isascii() else f"&#x{ord(c):x};" for c in text),
    "JavaScript": lambda text: "".join(
        c if c.isascii() or ord(c) > 0xFFFF else f"%u{ord(c):04X}" for c in text
    ),
    "e-mail": lambda text: (
        quopri.encodestring(text.encode(), quotetabs=True).decode().replace("=\n", "")
    ),
    "misread as Latin-1": lambda text: text.encode().decode("latin-1"),
    "JSON": lambda text: json.dumps(text)[1:-1],
    "JSON, twice": lambda text: json.dumps(json.dumps(text)),
    "bytes": lambda text: repr(text.encode())[2:-1],
    "git": lambda text: "".join(
        c if c.isascii() else "".join(f"\\{byte:03o}" for byte in c.encode()) for c in text
    ),
}


def spellings(name: str) -> set[str]:
    """The name as other people write it: other separators, case and Unicode normal forms."""
    parts = re.split(r"[\s'+-]+", name)
    texts = set()
    for separator, case, form in itertools.product(SEPARATORS, CASES, FORMS):
        digits_meet = any(
            a[-1:].isdigit() and b[:1].isdigit() for a, b in itertools.pairwise(parts)
        )
        if separator == "" and digits_meet:
            # 19198 is a different number from 19-198
            continue
        texts.add(
            unicodedata.normalize(form, case(name if separator is None else separator.join(parts)))
        )
    return texts


@pytest.mark.parametrize("name", NAMES)
def test_no_spelling_survives(name):
    mentions, survived = Mentions([name]), []
    places = itertools.cycle(PLACES)
    tried = [
        (spelled, how, next(places)) for spelled in sorted(spellings(name)) for how in ENCODINGS
    ]
    tried += [(name, how, place) for how in ENCODINGS for place in PLACES]
    for spelled, how, place in tried:
        text = ENCODINGS[how](place.format(spelled))
        left = mentions.replace(text, lambda _: "#")
        if bare(name) in bare(left) or "#" not in left:
            survived.append((how, text, left))
    assert not survived, f"{len(survived)}, such as {survived[:5]}"


@pytest.mark.parametrize("name", ["Jane Doe", "José Díaz", "Anna Каренина", "O'Brien"])
@pytest.mark.parametrize(
    "place", ["x{}2", "runOf{}", "2024{}", "{}2", "{}V2", "model{}Final.wav", "xml{}Parser"]
)
def test_camel_case_is_split(name, place):
    joined = re.sub(r"\W", "", name)
    left = Mentions([name]).replace(place.format(joined), lambda _: "#")
    assert left in (place.format("#"), place.format("#").removesuffix(".wav"))


@pytest.mark.parametrize("name", ["José", "Strauß", "İpek", "Nguyễn"])
def test_only_the_mention_is_replaced(name):
    for form, encode in itertools.product(FORMS, (str, quote, html.escape)):
        said = encode(unicodedata.normalize(form, name))
        text = f"100% of é → {said} & ç, {said}!"
        assert (
            Mentions([name]).replace(text, lambda match: f"<{match}>")
            == f"100% of é → <{name}> & ç, <{name}>!"
        )


UNRELATED = {
    "Ann": [
        "annual",
        "channel",
        "Hannah",
        "ANNEX",
        "planning/2024",
        "an n-gram",
        "%41nnual",
        "Annika's",
        "xAnnual2",
    ],
    "Jane Doe": ["Jane", "John Doe", "janedoes", "mary-jane does", "Jane and Doe", "Doe Janet"],
    "José": ["Josef", "jos", "Josephine", "Jos%C3%A9fa", "JOSEPH"],
    "Strauß": ["Straußen", "strausse", "Straub"],
    "İpek": ["ipeka", "kipek"],
    "Al Ice": ["all ice", "al-iced", "malice", "al is"],
    "A B": ["cab", "tab", "ab", "AB testing"],
    "1089": ["21089", "10890", "--seed 310891", "0.1089", "loss 2.1089", "a10890b"],
    "0010": ["10010", "00100", "--learning_rate 0.0010", "10"],
    "5": [
        "0.5",
        "1e-5",
        "5e-05",
        "2.5e-4",
        "15",
        "50",
        "1e5",
        "--lr 5.0",
        "v1.5",
        "5e-1",
        "1E-5",
        "5.25,",
    ],
    "10": ["100", "0.10", "1e-10", "10.5", "2010"],
    "p225": ["p2250", "sp225"],
    "Łukasz": ["Łukaszowi", "lukasza"],
    "王小明": ["王明", "小明王", "王大明"],
    "प्रिया": ["पराया", "प्रियांका"],
    "محمد": ["محمود", "أحمد"],
    "Σίσυφος": ["Σίσυφου", "συφος"],
    "Bo Li": ["bolivia", "hobo line", "bo lives"],
}


@pytest.mark.parametrize("name", UNRELATED)
def test_unrelated_text_is_unchanged(name):
    for text in UNRELATED[name]:
        assert Mentions([name]).replace(text, lambda _: "#") == text
    common = (
        'C:\\new\\table 100%25 &amp; {"lr": 1e-05, "é": "\\u00fc"} \\x41 %zz &c; \\ud83d naïve '
        "ÅNGSTRÖM ﬁne 「東京」"
    )
    assert Mentions([name]).replace(common, lambda _: "#") == common


def test_the_longest_of_several_names_wins():
    mentions = Mentions(["Jane", "Jane Doe", "1089"])
    assert mentions.replace("Jane Doel, jane_doe and Jane of 1089", lambda name: f"<{name}>") == (
        "<Jane> Doel, <Jane Doe> and <Jane> of <1089>"
    )


def test_a_name_without_letters_is_never_found():
    assert (
        not Mentions(["--", "", "?!"])
        and Mentions(["--"]).replace("a -- b", lambda _: "#") == "a -- b"
    )


@pytest.mark.parametrize(
    ("name", "spelled"),
    [
        ("José", "jose"),
        ("Müller", "Mueller"),
        ("Müller", "MUELLER"),
        ("Sørensen", "soerensen"),
        ("Łukasz", "lukasz"),
        ("Đức", "duc"),
        ("İpek", "IPEK"),
        ("Strauß", "strauss"),
        ("مُحَمَّد", "محمد"),
        ("0010", "٠٠١٠"),
        ("Mueller", "Müller"),
        ("Jane Doe", "Doe, Jane"),
        ("Björk Guðmundsdóttir", "gudmundsdottir_bjork"),
        ("王小明", "王 小明"),
        ("José", "Jos&eacute"),
        ("José", "Jos&#233"),
        ("José", r"Jos\U000000e9"),
    ],
)
def test_a_plain_keyboards_spelling_is_found(name, spelled):
    assert Mentions([name]).replace(f"a/{spelled}, b", lambda _: "#") == "a/#, b"
