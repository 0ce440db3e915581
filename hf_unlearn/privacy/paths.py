"""Cuts local paths in texts down to their last part, because the rest describes somebody's machine
and work."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

SEPARATOR = r"[/\\]"
# What a path on somebody's machine begins with: / ~/ ./ ../ file:/// or, on Windows, C:\ \\server\.
# (A single backslash begins a part of a regular expression.)
START = r"(?:(?:file:/*|~[\w.-]*|\.{1,2})?/|[A-Za-z]:[/\\]+|\\\\+)"
# A part of a path without quotes, and of one in quotes, where it may have blanks.
PART, QUOTED_PART = r"[^\s/\\'\"<>|,;]+", r"[^/\\'\"\n]+"
# Not within an address (https://) or a fraction.
ALONE = re.compile(rf"(?<![\w.:/\\~-]){START}(?:{PART}[/\\]+)+")
QUOTED = re.compile(rf"(?<=['\"]){START}(?:{QUOTED_PART}[/\\]+)+")
WHOLE = re.compile(rf"{START}(?:[^/\\\n]+[/\\]+)*([^/\\\n]*)")


def without_paths(value: Any, local: Iterable[str] = ()) -> Any:
    """`value` with only the last part of each local path in its texts: of absolute paths (also of
    Windows), of those that begin with ./, ../ or ~, and of `file:` addresses.

    Args:
        local: further paths, relative ones such as out/data. Ids on the Hub look the same.
    """
    paths = {path.rstrip("/\\") for path in local}
    paths = sorted((path for path in paths if re.search(SEPARATOR, path)), key=len, reverse=True)
    pattern = "|".join(map(re.escape, paths))
    relative = re.compile(rf"(?<![\w./\\-])(?:{pattern})(?:[/\\]+{PART})*[/\\]*(?![\w-])")

    def clean(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: clean(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [clean(item) for item in value]
        if not isinstance(value, str) or not re.search(SEPARATOR, value):
            return value
        value = relative.sub(lambda match: last_part(match[0]), value) if paths else value
        if whole := WHOLE.fullmatch(value):
            return whole[1] or last_part(value) or value
        return ALONE.sub("", QUOTED.sub("", value))

    return clean(value)


def last_part(path: str) -> str:
    """The name of a file or folder, without the folders it is in."""
    return re.split(SEPARATOR, path.rstrip("/\\"))[-1]
