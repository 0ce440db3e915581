"""YAML whose plain words stay as they are written, until it is known what type an option has.

YAML itself reads the speaker 0010 as 8, the language no as False, and 1e-4 as a text.
"""

import contextlib
import dataclasses
import re
import types
import typing
from collections.abc import Sequence
from enum import Enum
from pathlib import Path

import yaml

from .files import text_of

NULL = ("", "~", "null", "Null", "NULL")
TRUE, FALSE = ("true", "yes", "on", "y", "t", "1"), ("false", "no", "off", "n", "f", "0")
WANTED = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
MERGE = "tag:yaml.org,2002:merge"
# True and False are values of this option of transformers, whose declared type knows texts only.
BOOLEAN_TOO = ("fsdp",)


class Written(str):
    """A word of a YAML file that stands without quotes and without a tag, as it is written."""


class _Loader(yaml.SafeLoader):
    """Like SafeLoader it makes plain types only; keys are texts, and none may be there twice."""

    def compose_mapping_node(self, anchor):
        node = super().compose_mapping_node(anchor)
        keys = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != MERGE:
                if key.value in keys:
                    line = key.start_mark.line + 1
                    raise ValueError(
                        f"{self.name} gives '{key.value}' twice, again in line "
                        f"{line}: leave one out"
                    )
                keys.add(key.value)
                key.tag = "tag:yaml.org,2002:str"
        return node

    def construct_object(self, node, deep=False):
        if isinstance(node, yaml.ScalarNode) and node.style is None and self._is_plain(node):
            return Written(node.value)
        return super().construct_object(node, deep=deep)

    def _is_plain(self, node) -> bool:
        return node.tag != MERGE and node.tag == self.resolve(
            yaml.ScalarNode, node.value, (True, False)
        )


def read_yaml(path: str | Path) -> dict:
    """The keys and values of a YAML file, its plain words as `Written`. Raises ValueError: no such
    file, or no such YAML."""
    if not Path(path).is_file():
        raise ValueError(f"there is no configuration file {path}")
    given = parse_yaml(text_of(path), str(path))
    if not isinstance(given, dict):
        raise ValueError(f"{path} holds no options: write `key: value` in each line")
    return given


def parse_yaml(text: str, name: str):
    """What YAML says, its plain words as `Written`. Raises ValueError, with `name`: it is no YAML,
    or has a key twice."""
    try:
        loader = _Loader(text)
        loader.name = name
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise ValueError(f"{name} is no YAML: {' '.join(str(error).split())}") from error


def header_of(card: str) -> dict:
    """The metadata of a card, its values as texts: Norwegian is `no`. Empty where it has none.

    Raises:
        ValueError: they are no YAML.
    """
    header = re.match(r"\ufeff?\s*---[ \t]*\n(.*?)\n---[ \t]*(\n|$)", card, re.DOTALL)
    given = parse_yaml(header[1], "the card's header") if header else None
    return _as_texts(given) if isinstance(given, dict) else {}


def _as_texts(value):
    if isinstance(value, dict):
        return {key: _as_texts(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_texts(item) for item in value]
    if isinstance(value, Written):
        return None if value in NULL else str(value)
    return value


def resolved(value):
    """Written words in the types of YAML: numbers, true and false (yes, no, on, off), null. No
    octal, no dates."""
    if isinstance(value, dict):
        return {str(key): resolved(item) for key, item in value.items()}
    if isinstance(value, list):
        return [resolved(item) for item in value]
    if not isinstance(value, Written):
        return value
    if value in NULL:
        return None
    if value.lower() in ("true", "yes", "on", "false", "no", "off"):
        return value.lower() in TRUE
    if not re.match(r"[-+]?\.?\d|[-+]?\.(inf|nan)$", value, re.IGNORECASE):
        return str(value)
    for read in (_whole, _number):
        with contextlib.suppress(ValueError):
            return read(value)
    return str(value)


def as_declared(given: dict, kinds: Sequence[type], path: str | Path) -> dict:
    """The options of a YAML file in the types that these dataclasses declare; other keys are left
    out.

    Raises:
        ValueError: a value is not of its option's type; the message names file, option and value.
    """
    declared = {}
    for kind in kinds:
        hints = typing.get_type_hints(kind)
        for option in dataclasses.fields(kind):
            if option.name in given:
                try:
                    declared[option.name] = _converted(
                        option, given[option.name], hints[option.name]
                    )
                except _Mismatch as error:
                    raise ValueError(f"{path}: {option.name} {error}") from None
    return declared


class _Mismatch(Exception):
    pass


def _converted(option: dataclasses.Field, value, hint):
    value = _as_type(value, hint, option.name in BOOLEAN_TOO)
    choices = option.metadata.get("choices")
    if choices and value is not None and value not in choices:
        raise _Mismatch(f"is {value!r}: give one of {', '.join(map(str, choices))}")
    return value


def _as_type(value, hint, boolean_too: bool = False):
    kinds = typing.get_args(hint) if _is_union(hint) else (hint,)
    lists = [kind for kind in kinds if typing.get_origin(kind) is list or kind is list]
    scalars = [kind for kind in kinds if _is_scalar(kind)]
    if value is None or isinstance(value, Written) and value in NULL:
        if type(None) in kinds or lists and str not in scalars:
            return None
        if value in (None, "") or str not in scalars:
            raise _Mismatch(f"is empty: give {_wanted(kinds)}")
    if isinstance(value, list):
        return _as_list(value, lists, kinds)
    if isinstance(value, dict):
        if scalars and set(scalars) | set(lists) | {type(None)} >= set(kinds):
            raise _Mismatch(f"is a list of keys and values: give {_wanted(kinds)}")
        return resolved(value)
    if lists and not scalars:
        (item,) = typing.get_args(lists[0]) or (str,)
        one = _as_type(value, item)
        return one if item is str else [one]  # the options themselves know one text as no list
    return _as_scalar(value, scalars, kinds, boolean_too)


def _as_list(value: list, lists: list, kinds) -> list:
    if not lists:
        if all(_is_scalar(kind) or kind is type(None) for kind in kinds):
            raise _Mismatch(f"is a list: give {_wanted(kinds)}")
        return resolved(value)
    (item,) = typing.get_args(lists[0]) or (object,)
    return [_as_type(entry, item) for entry in value]


def _as_scalar(value, scalars: list, kinds, boolean_too: bool):
    types_of = {kind for kind in scalars if kind in WANTED}
    for kind in scalars:
        if (
            isinstance(kind, type)
            and issubclass(kind, Enum)
            and value not in (values := [one.value for one in kind])
        ):
            raise _Mismatch(f"is '{value}': give one of {', '.join(map(str, values))}")
    if types_of == {str} and not any(typing.get_origin(kind) is typing.Literal for kind in scalars):
        return (
            value.lower() == "true"
            if boolean_too and str(value).lower() in ("true", "false")
            else str(value)
        )
    if len(types_of) == 1 and len(scalars) == 1:
        return _READ[types_of.pop()](str(value))
    if not scalars and any(kind is dict or typing.get_origin(kind) is dict for kind in kinds):
        raise _Mismatch(f"is '{value}': give keys and values")
    return resolved(value)


def _is_union(hint) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _is_scalar(kind) -> bool:
    literal = typing.get_origin(kind) is typing.Literal
    return kind in WANTED or literal or isinstance(kind, type) and issubclass(kind, Enum)


def _wanted(kinds) -> str:
    known = [WANTED[kind] for kind in kinds if kind in WANTED]
    return known[0] if known else "a value, or leave it out"


def _whole(text: str) -> int:
    if re.fullmatch(r"[-+]?0[xo][0-9a-f_]+", text, re.IGNORECASE):
        return int(text, 0)
    return int(text)


def _number(text: str) -> float:
    return float(re.sub(r"^([-+]?)\.(inf|nan)$", r"\1\2", text, flags=re.IGNORECASE))


def _read_whole(text: str) -> int:
    try:
        return _whole(text)
    except ValueError:
        number = _read_number(text, "a whole number")
    if not number.is_integer():
        raise _Mismatch(f"is '{text}', which is no whole number")
    return int(number)


def _read_number(text: str, wanted: str = "a number") -> float:
    try:
        number = _number(text)
    except ValueError:
        number = float("nan")
    if number != number:
        raise _Mismatch(f"is '{text}', which is no {wanted.removeprefix('a ')}")
    return number


def _read_bool(text: str) -> bool:
    if text.lower() not in TRUE + FALSE:
        raise _Mismatch(f"is '{text}': give true or false")
    return text.lower() in TRUE


_READ = {bool: _read_bool, int: _read_whole, float: _read_number}
