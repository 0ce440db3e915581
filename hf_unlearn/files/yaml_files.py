"""Reads YAML files and converts their values to the types that options declare.

Plain scalars are kept as they are written until the type of their option is known. YAML alone would
read the speaker 0010 as 8, the language no as False, and 1e-4 as a string.
"""

import contextlib
import dataclasses
import itertools
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from . import one_line, read_text_file

NULL = ("", "~", "null", "Null", "NULL")
TRUE, FALSE = ("true", "yes", "on", "y", "t", "1"), ("false", "no", "off", "n", "f", "0")
WANTED = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}
# How many values the header of a model card may have.
MAX_VALUES = 10_000
MERGE = "tag:yaml.org,2002:merge"
# Options of transformers that accept True and False, although their declared type is a string.
BOOLEAN_TOO = ("fsdp",)


class PlainScalar(str):
    """A value in a YAML file without quotes and without a tag, as it is written."""


class _Loader(yaml.SafeLoader):
    """A SafeLoader that keeps plain scalars. Keys are strings, and none may occur twice."""

    # The file's name, for messages.
    name: str = ""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        keys = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != MERGE:
                if key.value in keys:
                    line = key.start_mark.line + 1
                    raise ValueError(
                        f"{self.name} gives '{key.value}' twice, again in line {line}: remove one"
                    )
                keys.add(key.value)
                key.tag = "tag:yaml.org,2002:str"
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if isinstance(node, yaml.ScalarNode) and node.style is None and self._is_untagged(node):
            return PlainScalar(node.value)
        return super().construct_object(node, deep=deep)

    def _is_untagged(self, node: yaml.ScalarNode) -> bool:
        implied = self.resolve(yaml.ScalarNode, node.value, (True, False))
        return node.tag != MERGE and node.tag == implied


def read_yaml(path: str | Path) -> dict:
    """The options in a YAML file, with plain scalars as `PlainScalar`.

    Raises:
        ValueError: there is no such file, or it does not hold keys and values in YAML.
    """
    if not Path(path).is_file():
        raise ValueError(f"there is no configuration file {path}: give the path of a YAML file")
    content = parse_yaml(read_text_file(path), str(path))
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no options: write `key: value` on each line")
    return content


def parse_yaml(text: str, name: str) -> Any:
    """The content of a YAML text, with plain scalars as `PlainScalar`.

    Args:
        name: what the text is called in messages.

    Raises:
        ValueError: it is not valid YAML, or has a key twice.
    """
    try:
        loader = _Loader(text)
        loader.name = name
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise ValueError(f"{name} is not valid YAML: {one_line(error)}") from error


def header_of(card: str) -> dict:
    """The metadata of a model card, empty if it has none.

    All values are strings, so that Norwegian is `no` and not False.

    Raises:
        ValueError: the metadata is not valid YAML, or is too large once its aliases are filled in.
    """
    header = re.match(r"\ufeff?\s*---[ \t]*\n(.*?)\n---[ \t]*(\n|$)", card, re.DOTALL)
    content = parse_yaml(header[1], "the card's header") if header else None
    return _as_texts(content, itertools.count()) if isinstance(content, dict) else {}


def _as_texts(value: Any, visited: Iterator[int]) -> Any:
    # A few aliases of aliases can stand for millions of values.
    if next(visited) > MAX_VALUES:
        raise ValueError(f"the card's header has more than {MAX_VALUES} values: shorten it")
    if isinstance(value, dict):
        return {key: _as_texts(item, visited) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_texts(item, visited) for item in value]
    if isinstance(value, PlainScalar):
        return None if value in NULL else str(value)
    return value


def resolved(value: Any) -> Any:
    """`value` with its plain scalars as numbers, true and false (yes, no, on, off), or null.

    Unlike in YAML 1.1 there are no octal numbers, and no dates.
    """
    if isinstance(value, dict):
        return {str(key): resolved(item) for key, item in value.items()}
    if isinstance(value, list):
        return [resolved(item) for item in value]
    if not isinstance(value, PlainScalar):
        return value
    if value in NULL:
        return None
    if value.lower() in ("true", "yes", "on", "false", "no", "off"):
        return value.lower() in TRUE
    if not re.match(r"[-+]?\.?\d|[-+]?\.(inf|nan)$", value, re.IGNORECASE):
        return str(value)
    for read in (_int, _float):
        with contextlib.suppress(ValueError):
            return read(value)
    return str(value)


def as_declared(
    values: dict[str, Any], dataclass_types: Sequence[type], path: str | Path
) -> dict[str, Any]:
    """The options of a YAML file, converted to the types that the dataclasses declare.

    Keys that none of them declares are left out.

    Args:
        values: the result of `read_yaml`.
        path: of the file, for messages.

    Raises:
        ValueError: a value does not fit its option's type. The message gives file, option and
            value.
    """
    declared = {}
    for dataclass_type in dataclass_types:
        hints = typing.get_type_hints(dataclass_type)
        for option in dataclasses.fields(dataclass_type):
            name = option.name
            if name in values:
                try:
                    declared[name] = _converted(option, values[name], hints[name])
                except _Mismatch as error:
                    raise ValueError(f"{path}: {name} {error}") from None
    return declared


class _Mismatch(Exception):
    """A value does not fit its option's type. The message continues the sentence "<option> ..."."""


def _converted(option: dataclasses.Field, value: Any, hint: Any) -> Any:
    value = _as_type(value, hint, option.name in BOOLEAN_TOO)
    choices = option.metadata.get("choices")
    if choices and value is not None and value not in choices:
        raise _Mismatch(f"is {value!r}: give one of {', '.join(map(str, choices))}")
    return value


def _as_type(value: Any, hint: Any, boolean_too: bool = False) -> Any:
    kinds = typing.get_args(hint) if _is_union(hint) else (hint,)
    lists = [kind for kind in kinds if typing.get_origin(kind) is list or kind is list]
    scalars = [kind for kind in kinds if _is_scalar(kind)]
    if value is None or isinstance(value, PlainScalar) and value in NULL:
        if type(None) in kinds or lists and str not in scalars:
            return None
        if value in (None, "") or str not in scalars:
            raise _Mismatch(f"is empty: give {_wanted(kinds)}")
    if isinstance(value, list):
        return _as_list(value, lists, kinds)
    if isinstance(value, dict):
        if (scalars or lists) and set(scalars) | set(lists) | {type(None)} >= set(kinds):
            raise _Mismatch(f"is a mapping of keys to values: give {_wanted(kinds)}")
        return resolved(value)
    if lists and not scalars:
        (item,) = typing.get_args(lists[0]) or (str,)
        one = _as_type(value, item)
        # The options accept a single string in place of a list of strings.
        return one if item is str else [one]
    return _as_scalar(value, scalars, kinds, boolean_too)


def _as_list(value: list, lists: Sequence[Any], kinds: Iterable[Any]) -> list:
    if not lists:
        if all(_is_scalar(kind) or kind is type(None) for kind in kinds):
            raise _Mismatch(f"is a list: give {_wanted(kinds)}")
        return resolved(value)
    (item,) = typing.get_args(lists[0]) or (object,)
    return [_as_type(entry, item) for entry in value]


def _as_scalar(value: Any, scalars: Sequence[Any], kinds: Iterable[Any], boolean_too: bool) -> Any:
    basic = {kind for kind in scalars if kind in WANTED}
    literal = any(typing.get_origin(kind) is typing.Literal for kind in scalars)
    for kind in scalars:
        if isinstance(kind, type) and issubclass(kind, Enum):
            values = [one.value for one in kind]
            if value not in values:
                raise _Mismatch(f"is '{value}': give one of {', '.join(map(str, values))}")
    if basic == {str} and not literal:
        if boolean_too and str(value).lower() in ("true", "false"):
            return value.lower() == "true"
        return str(value)
    if len(basic) == 1 and len(scalars) == 1:
        return _READERS[basic.pop()](str(value))
    if not scalars and any(kind is dict or typing.get_origin(kind) is dict for kind in kinds):
        raise _Mismatch(f"is '{value}': give keys and values")
    return resolved(value)


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _is_scalar(kind: Any) -> bool:
    literal = typing.get_origin(kind) is typing.Literal
    return kind in WANTED or literal or isinstance(kind, type) and issubclass(kind, Enum)


def _wanted(kinds: Iterable[Any]) -> str:
    words = [WANTED[kind] for kind in kinds if kind in WANTED]
    if not words and any(typing.get_origin(kind) is list or kind is list for kind in kinds):
        return "a list: [first, second]"
    return words[0] if words else "a value, or omit the option"


def _int(text: str) -> int:
    if re.fullmatch(r"[-+]?0[xo][0-9a-f_]+", text, re.IGNORECASE):
        return int(text, 0)
    return int(text)


def _float(text: str) -> float:
    return float(re.sub(r"^([-+]?)\.(inf|nan)$", r"\1\2", text, flags=re.IGNORECASE))


def _read_int(text: str) -> int:
    try:
        return _int(text)
    except ValueError:
        number = _read_float(text, "a whole number")
    if not number.is_integer():
        raise _Mismatch(f"is '{text}', which is not a whole number")
    return int(number)


def _read_float(text: str, wanted: str = "a number") -> float:
    try:
        number = _float(text)
    except ValueError:
        number = float("nan")
    if number != number:
        raise _Mismatch(f"is '{text}', which is not {wanted}")
    return number


def _read_bool(text: str) -> bool:
    if text.lower() not in TRUE + FALSE:
        raise _Mismatch(f"is '{text}': give true or false")
    return text.lower() in TRUE


_READERS: dict[type, Callable[[str], Any]] = {
    bool: _read_bool,
    int: _read_int,
    float: _read_float,
}
