"""Errors about misspelled arguments that name the arguments that may be meant."""

import difflib
import functools
import inspect
import re
from collections.abc import Callable, Collection, Iterable
from typing import Any


def unknown_argument(
    error: TypeError, keywords: Collection[str], names: Iterable[str]
) -> TypeError:
    """A constructor's error about an unknown argument, with the known arguments that are spelled
    like it. Other errors are returned as they are.

    Args:
        keywords: the names of the arguments that the constructor got.
    """
    match = re.search(r"__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
    if match is None or match[1] not in keywords:
        return error
    similar = difflib.get_close_matches(match[1], names)
    meant = f"; did you mean {' or '.join(similar)}?" if similar else ""
    return TypeError(f"unknown argument {match[1]!r}{meant}")


def with_suggestions(*others: Callable) -> Callable[[Callable], Callable]:
    """Decorates a constructor. Its error about an unknown argument then names similar arguments.

    Args:
        others: further constructors, which get the arguments that this one does not take.
    """

    def decorated(init: Callable) -> Callable:
        names = [name for one in (init, *others) for name in inspect.signature(one).parameters]

        @functools.wraps(init)
        def constructor(self: object, *arguments: Any, **keywords: Any) -> None:
            try:
                init(self, *arguments, **keywords)
            except TypeError as error:
                raise unknown_argument(error, keywords, names) from error.__cause__

        return constructor

    return decorated
