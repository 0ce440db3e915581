"""YAML keeps plain scalars as they are written, and options get their declared types."""

import codecs
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from hf_unlearn import UnlearnConfig
from hf_unlearn.data import SpeechArguments
from hf_unlearn.data.images import ImageArguments
from hf_unlearn.experiments import RecipeArguments, parse
from hf_unlearn.files import read_text_file
from hf_unlearn.files.yaml_files import (
    PlainScalar,
    as_declared,
    header_of,
    parse_yaml,
    read_yaml,
    resolved,
)

# What YAML 1.1 would read as something else: numbers of four kinds, truth values, dates, times,
# nulls.
WORDS = [
    *"0010 0x1F 0b11 0o17 1e5 1_000 1.10 +7 .5 no NO off on yes y true".split(),
    *"2024-01-01 12:30 190:20:30 ~ null Null .inf .nan = 1089".split(),
]


@dataclass
class Options:
    texts: list[str] = field(default_factory=list)
    text: str = ""
    text_or_none: str | None = None
    whole: int = 0
    whole_or_none: int | None = None
    number: float = 0.0
    flag: bool = False
    flag_or_none: bool | None = None
    either: str | bool = "no"
    mode: Literal["a", "b"] = "a"
    keys: dict | str | None = None
    typed_keys: dict[str, Any] | None = None
    several: None | str | list[str] = None
    numbers: list[int] = field(default_factory=list)
    chosen: str = field(default="x", metadata={"choices": ["x", "y"]})


def declared(text: str) -> dict:
    return as_declared(parse_yaml(text, "c.yaml"), [Options], "c.yaml")


@pytest.mark.parametrize("word", WORDS)
def test_identifiers_are_read_as_they_are_written(word):
    assert declared(f"texts: [{word}, b]\nseveral: [{word}]") == {
        "texts": [word, "b"],
        "several": [word],
    }
    assert declared(f"texts:\n- {word}")["texts"] == [word]
    # alone, these mean that there is no value
    if word not in ("~", "null", "Null"):
        options = declared(f"texts: {word}\ntext: {word}\ntext_or_none: {word}\nseveral: {word}")
        assert set(options.values()) == {word} and {type(value) for value in options.values()} == {
            str
        }


@pytest.mark.parametrize("word", [*WORDS, "Jane Doe"])
def test_speakers_classes_names_and_languages_of_a_configuration(word, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(
        f"output_dir: {tmp_path}\nuse_cpu: true\nforget_speakers: [{word}]\n"
        f"hide_names: [{word}]\nlanguage: '{word}'\n"
    )
    speech, args = parse((SpeechArguments, UnlearnConfig), [str(file)])
    assert (speech.forget_speakers, args.hide_names, speech.language) == ([word], [word], word)
    file.write_text(f"forget_classes: [{word}]\nforget_ids: [{word}]\nretain_classes: [{word}]\n")
    (images,) = parse((ImageArguments,), [str(file)])
    assert images.forget_classes == images.forget_ids == images.retain_classes == [word]
    (again,) = parse((ImageArguments,), [str(file), "--forget_classes", word])
    assert again.forget_classes == [word]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("whole: 12", 12),
        ("whole: 010", 10),
        ("whole: 1e3", 1000),
        ("whole: 0x1F", 31),
        ("whole: '5'", 5),
        ("whole: 1_000", 1000),
        ("whole: -1", -1),
        ("whole_or_none:", None),
        ("whole_or_none: null", None),
        ("number: 1e-4", 1e-4),
        ("number: 1.0e-5", 1e-5),
        ("number: '1e5'", 1e5),
        ("number: 3", 3.0),
        ("number: .inf", float("inf")),
        ("flag: yes", True),
        ("flag: off", False),
        ("flag: 'true'", True),
        ("flag: 0", False),
        ("flag_or_none: ~", None),
        ("text_or_none:", None),
        ("text: ''", ""),
        ("texts:", None),
        ("several:", None),
        ("either: no", False),
        ("either: all", "all"),
        ("mode: b", "b"),
        ("chosen: y", "y"),
        (
            "keys: {a: 1e-4, b: no, c: 2024-01-01, d: 010}",
            {"a": 1e-4, "b": False, "c": "2024-01-01", "d": 10},
        ),
        ("keys: '{\"a\": 1}'", '{"a": 1}'),
        ("typed_keys: {1: x}", {"1": "x"}),
        ("numbers: 3", [3]),
        ("numbers: [1, 010]", [1, 10]),
    ],
)
def test_other_options_have_their_declared_type(text, expected):
    (value,) = declared(text).values()
    assert value == expected and type(value) is type(expected)


@pytest.mark.parametrize(
    "text, message",
    [
        ("whole:", "c.yaml: whole is empty: give a whole number"),
        ("whole: null", "c.yaml: whole is empty: give a whole number"),
        ("whole: 1.5", "whole is '1.5', which is not a whole number"),
        ("whole: many", "whole is 'many', which is not a whole number"),
        ("whole: [1]", "whole is a list: give a whole number"),
        ("number: fast", "number is 'fast', which is not a number"),
        ("number: 1:30", "number is '1:30', which is not a number"),
        ("number: .nan", "number is '.nan', which is not a number"),
        ("flag: maybe", "flag is 'maybe': give true or false"),
        ("flag:", "flag is empty: give true or false"),
        ("text:", "text is empty: give a string"),
        ("text: {a: 1}", "text is a mapping of keys to values: give a string"),
        ("texts: {a: 1}", "texts is a mapping of keys to values: give a list"),
        ("texts: [{a: 1}]", "texts is a mapping of keys to values: give a string"),
        ("texts: [a, ]\nwhole: 1\nnumbers: [a]", "numbers is 'a', which is not a whole number"),
        ("typed_keys: word", "typed_keys is 'word': give keys and values"),
        ("chosen: z", "chosen is 'z': give one of x, y"),
        ("whole: 1\nwhole: 2", "c.yaml gives 'whole' twice, again in line 2: remove one"),
        ("keys: {a: 1, 'a': 2}", "c.yaml gives 'a' twice"),
    ],
)
def test_a_value_of_another_type_gets_one_line(text, message):
    with pytest.raises(ValueError) as refused:
        declared(text)
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_the_recipes_say_which_option_is_wrong(tmp_path):
    file = tmp_path / "c.yaml"
    for text, message in (
        ("max_steps:", "max_steps is empty: give a whole number"),
        ("learning_rate: fast", "learning_rate is 'fast', which is not a number"),
        ("lr_scheduler_type: flat", "lr_scheduler_type is 'flat': give one of linear, cosine"),
        ("granularity: layer", "granularity is 'layer': give one of parameter, model"),
    ):
        file.write_text(f"output_dir: x\n{text}\n")
        with pytest.raises(ValueError, match=message):
            parse((RecipeArguments, UnlearnConfig), [str(file)])


def test_options_of_transformers_keep_their_meaning(tmp_path):
    """Among them those that YAML alone misreads: save_strategy is `no`, and 1e-4 is a number."""
    file = tmp_path / "c.yaml"
    file.write_text(
        f"output_dir: {tmp_path}\nuse_cpu: true\nsave_strategy: no\nlearning_rate: 1e-4\n"
        "report_to: none\nseed: 7\nlr_scheduler_kwargs: {num_cycles: 2}\nmax_steps: 1e2\n"
        "logging_steps: 5\nmethod: influence\nmethod_kwargs: {scale: 1e-3}\n"
    )
    (args,) = parse((UnlearnConfig,), [str(file)])
    assert args.save_strategy == "no" and args.report_to == [] and args.seed == 7
    assert args.learning_rate == 1e-4 and args.max_steps == 100 and args.logging_steps == 5
    assert args.lr_scheduler_kwargs == {"num_cycles": 2} and args.method_kwargs == {"scale": 1e-3}


def test_merged_and_shared_parts_may_be_overridden():
    content = resolved(
        parse_yaml("base: &b {k: 1, l: 2}\nmore: {<<: *b, k: 3}\nsame: *b", "c.yaml")
    )
    assert content == {"base": {"k": 1, "l": 2}, "more": {"k": 3, "l": 2}, "same": {"k": 1, "l": 2}}


def test_quotes_and_tags_are_obeyed():
    assert resolved(parse_yaml("a: '10'\nb: !!str 10\nc: !!int '10'\nd: 10", "x")) == {
        "a": "10",
        "b": "10",
        "c": 10,
        "d": 10,
    }
    assert isinstance(parse_yaml("10", "x"), PlainScalar)


@pytest.mark.parametrize(
    "word, language", [("no", "no"), ("'no'", "no"), ("[no, en]", ["no", "en"]), ("de", "de")]
)
def test_the_language_of_a_card_is_a_text(word, language):
    assert header_of(f"---\nlanguage: {word}\nlicense: mit\n---\n# A card\n") == {
        "language": language,
        "license": "mit",
    }
    assert header_of("# A card without metadata\n\n---\n") == {}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_says_the_encoding(tmp_path, encoding):
    file = tmp_path / "c.yaml"
    file.write_bytes("text: Zoë\r\nwhole: 3\r\n".encode(encoding))
    assert read_text_file(file) == "text: Zoë\nwhole: 3\n" and read_yaml(file) == {
        "text": "Zoë",
        "whole": "3",
    }
    file.write_bytes(codecs.BOM_UTF16_BE + "text: Zoë".encode("utf-16-be"))
    assert read_yaml(file) == {"text": "Zoë"}


def test_another_encoding_is_refused_by_name(tmp_path):
    (tmp_path / "c.yaml").write_bytes("text: Zoë".encode("latin-1"))
    with pytest.raises(ValueError, match=r"c.yaml is not valid UTF-8 \(byte 8\): save it as UTF-8"):
        read_yaml(tmp_path / "c.yaml")
