"""Names of speakers and classes: how they are compared, and how messages list them."""

import unicodedata
from collections.abc import Collection, Iterable

# how many names a message lists
SHOWN = 5


def spelling(name: str) -> str:
    """A normal form that all spellings of a name share.

    Case, surrounding and repeated spaces, and compatibility characters (NFKC) make no difference.
    """
    folded = unicodedata.normalize("NFKC", name).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def other_spellings(names: Iterable[str], candidates: Iterable[str]) -> list[str]:
    """Names in `candidates` that are spelled like one of `names`, but are not among them."""
    names = set(names)
    spellings = {spelling(name) for name in names}
    return sorted(name for name in set(candidates) - names if spelling(name) in spellings)


def check_spellings(
    forgotten: Collection[str], candidates: Iterable[str], column: str, option: str
) -> None:
    """Checks that no other spelling of a forgotten name would be kept.

    Args:
        column, option: for the message: "speaker" or "class", and the option that names them.

    Raises:
        ValueError: the data has another spelling of a forgotten name.
    """
    if others := other_spellings(forgotten, candidates):
        raise ValueError(
            f"{column} {', '.join(map(repr, others))} would be kept, but "
            f"{', '.join(map(repr, sorted(forgotten)))} forgotten: if they are the same, name all "
            f"spellings in {option}; if not, rename one in the data"
        )


def first_few(names: Iterable[str]) -> str:
    """The first names in sorted order, shortened for a message."""
    names = sorted(names)
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def as_names(names: str | int | list | tuple | None) -> list[str]:
    """An option that lists names, as texts. A single name needs no list, and None is not a name."""
    if names is None:
        return []
    if isinstance(names, list | tuple):
        return [str(name) for name in names]
    return [str(names)]
