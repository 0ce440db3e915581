"""Checks of rows and of the request for them, with messages in the words of their kind."""

from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path

from transformers.utils import logging

from .names import first_few, other_spellings
from .rows import RowKind, RowRequest

logger = logging.get_logger(__name__)

# Up to this many names are listed in the message about an unknown one.
LISTED = 20


def check_table_suffix(kind: RowKind, source: Path, suffixes: tuple[str, ...]) -> None:
    if source.is_file() and source.suffix not in suffixes:
        raise ValueError(
            f"{source} is not a table of {kind.files}: give one that ends in "
            f"{', '.join(suffixes)}, or a folder"
        )


def check_columns(
    kind: RowKind,
    names: Iterable[str],
    columns: dict[str, str],
    source: str | Path,
    options: dict[str, str] | None = None,
) -> None:
    """Raises ValueError if a required column is not among the names of a source's columns.

    Args:
        options: see `RowRequest`.
    """
    names = list(names)
    for role, option in {**kind.column_options, **(options or {})}.items():
        if columns[role] not in names:
            word = role if option == kind.column_options[role] else word_of(option)
            alone = names == [kind.content]
            hint = f": {kind.files} of a single folder have no {kind.owner}" if alone else ""
            raise ValueError(
                f"no {word} column '{columns[role]}' ({option}) in {source}; its columns are "
                f"{', '.join(names)}{hint}"
            )


def word_of(option: str) -> str:
    """What an option's column holds: "label" for label_column."""
    return option.removesuffix("_column")


def check_owners(
    kind: RowKind, wanted: Iterable[str], owners: Iterable[str], source: str | Path
) -> None:
    """Raises ValueError if one of `wanted` is not among `owners`. The message has a name that is
    spelled like it, else all names where they are few, else the nearest ones."""
    owners = sorted(set(owners))
    for name in wanted:
        if name not in owners:
            raise ValueError(
                f"unknown {kind.owner} {name!r} in {source}, which has {len(owners)} "
                f"{kind.owners}: {_meant(name, owners)}"
            )


def _meant(name: str, owners: Sequence[str]) -> str:
    """What a message suggests in place of an unknown name."""
    spelled_alike = other_spellings([name], owners)
    if spelled_alike or len(owners) > LISTED:
        nearest = spelled_alike or get_close_matches(name, owners, cutoff=0)
        return f"did you mean {' or '.join(map(repr, nearest))}?"
    return ", ".join(map(repr, owners))


def check_wanted(kind: RowKind, request: RowRequest, owners: Iterable[str]) -> None:
    """Checks the owners asked for, and warns if the data has other spellings of them.

    Raises:
        ValueError: an owner asked for is unknown.
    """
    requested, owners = request.owners or [], set(owners)
    check_owners(kind, requested, owners, request.source)
    if others := other_spellings(requested, owners):
        logger.warning_once(
            f"{request.source} has other spellings of the {kind.owners} asked for, which are left "
            f"out: {first_few(map(repr, others))}"
        )


def check_not_empty(kind: RowKind, count: int, split: str, source: str | Path) -> None:
    if not count:
        raise ValueError(f"split '{split}' of {source} holds no {kind.samples}: name another split")


def check_unique(kind: RowKind, ids: list[str], source: str | Path) -> None:
    """Raises ValueError if an id repeats."""
    repeated = [name for name, count in Counter(ids).items() if count > 1]
    if repeated:
        raise ValueError(
            f"{len(repeated)} {kind.sample} ids of {source} are not unique, among them "
            f"'{repeated[0]}': name another id_column"
        )
