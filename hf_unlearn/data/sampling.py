"""Which rows a split takes: by the seed, balanced over groups (speakers, classes), whatever the
order of the rows."""

import hashlib
import unicodedata
import zlib
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
from datasets import Dataset
from transformers.utils import logging

logger = logging.get_logger(__name__)

READ_AT_MOST = 10_000  # files to forget that are compared with those of the retain set


def by_id(rows: Dataset) -> Dataset:
    ids = rows["id"][:]
    return rows.select(sorted(range(len(ids)), key=ids.__getitem__))


def of_groups(rows: Dataset, by: str, groups: set[str]) -> Dataset:
    """The rows whose column `by` is one of `groups`, in the order of their ids."""
    return by_id(rows.select([row for row, group in enumerate(rows[by][:]) if group in groups]))


def shuffled_rows(rows: Dataset, by: str, seed: int) -> dict[str, list[int]]:
    """Row numbers of each group, shuffled by the seed and by nothing else: not row order, not the
    other groups."""
    ids, groups = rows["id"][:], {}
    for row, group in enumerate(rows[by][:]):
        groups.setdefault(group, []).append(row)
    shuffled = {}
    for group, own in groups.items():
        order = np.random.default_rng([seed, zlib.crc32(group.encode())]).permutation(len(own))
        own = sorted(own, key=ids.__getitem__)
        shuffled[group] = [own[position] for position in order]
    return shuffled


def hold_out(rows: Dataset, by: str, groups: set[str], share: float, seed: int) -> list[int]:
    """Row numbers of so large a share of each group: at least one where it is not 0, and never
    all."""
    if not 0 <= share < 1:
        raise ValueError(
            f"held_out is {share}: give the share of a {by}'s samples to keep unseen, in [0, 1)"
        )
    held = []
    for group, own in shuffled_rows(rows, by, seed).items():
        if group in groups and share > 0:
            held += own[: min(max(1, round(share * len(own))), len(own) - 1)]
    return held


def balanced(rows: Dataset, by: str, count: int | None, seed: int) -> Dataset:
    """At most `count` rows (None: all), taken from the shuffled groups in turn, in the order of
    their ids."""
    if count is None:
        return rows
    if count < 1:
        raise ValueError(
            f"a split cannot be bounded to {count} samples: give a positive number, or none for all"
        )
    groups = shuffled_rows(rows, by, seed)
    names = [
        sorted(groups)[position]
        for position in np.random.default_rng(seed).permutation(len(groups))
    ]
    turns = (
        (turn, place, groups[name][turn])
        for place, name in enumerate(names)
        for turn in range(len(groups[name]))
    )
    return by_id(rows.select([row for _, _, row in sorted(turns)[:count]]))


def rest_of(
    pool: Dataset, retained: Collection[str], by: str, count: int, seed: int
) -> Dataset | None:
    """At most `count` balanced rows of the pool whose ids are not retained; None where there are
    none, or count is 0.

    Raises:
        ValueError: count is negative.
    """
    if count == 0:
        return None
    retained = set(retained)
    rest = pool.select([row for row, name in enumerate(pool["id"][:]) if name not in retained])
    return balanced(rest, by, count, seed) if len(rest) else None


def count_of(size: float, available: int, option: str, units: str) -> int:
    """`size` as a number of samples: below 1 it is a share of those available."""
    count = round(size * available) if size < 1 else size
    if count != int(count) or count < 1:
        raise ValueError(
            f"{option} is {size}, of {available} {units}: give a number, or a share below 1"
        )
    if count > available:
        raise ValueError(f"{option} is {size:g}, but only {available} {units} are there for it")
    return int(count)


def check_apart(train: Dataset, test: Dataset, units: str) -> None:
    shared = sorted(set(train["id"][:]) & set(test["id"][:]))
    if shared:
        raise ValueError(
            f"{len(shared)} ids of {units} are in both the training and the test split, among them "
            f"'{shared[0]}': "
            "name splits that do not overlap, or an id_column that is unique over both"
        )


def spelling(name: str) -> str:
    """What two spellings of one name have in common: no spaces around it, no case, compatible
    characters alike."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def others_alike(names: Iterable[str], known: Iterable[str]) -> list[str]:
    """Those of `known` that are other spellings of one of `names`, and not among them."""
    names = set(names)
    spellings = set(map(spelling, names))
    return sorted(name for name in set(known) - names if spelling(name) in spellings)


def check_spellings(
    forgotten: Collection[str], known: Iterable[str], kind: str, option: str
) -> None:
    """Raises ValueError where the data has another spelling of what is forgotten, which would be
    kept."""
    if alike := others_alike(forgotten, known):
        raise ValueError(
            f"{kind} {', '.join(map(repr, alike))} would be kept, but "
            f"{', '.join(map(repr, sorted(forgotten)))} forgotten: "
            f"if they are the same, name all spellings in {option}; if not, rename one in the data"
        )


def without_earlier(
    parts: list[Dataset | None],
    by: str,
    earlier: Iterable[str],
    forgotten: Collection[str],
    retained: Collection[str],
) -> list[Dataset | None]:
    """The parts without what the model has forgotten before, unless it is forgotten again; one
    warning says so.

    Args:
        by: the column: speaker, class, id.

    Raises:
        ValueError: something forgotten before is to be retained.
    """
    alike = str if by == "id" else spelling
    earlier = set(map(alike, map(str, earlier))) - set(map(alike, forgotten))
    back = sorted(name for name in retained if alike(name) in earlier)
    if back:
        raise ValueError(
            f"{by} {', '.join(back)} is to be retained, but the model has forgotten it before: "
            "leave it out, or start from "
            "a model that still knows it"
        )
    found = sorted(
        {
            name
            for rows in parts
            if rows is not None
            for name in rows[by][:]
            if alike(name) in earlier
        }
    )
    if not found:
        return parts
    shown = ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
    logger.warning_once(f"The model has forgotten {by} {shown} before: left out of all splits.")
    gone = set(found)
    return [
        rows and rows.select([row for row, name in enumerate(rows[by][:]) if name not in gone])
        for rows in parts
    ]


def same_files(first: Dataset, second: Dataset, column: str) -> list[tuple[str, str]]:
    """Pairs of ids whose files have the same content; none where `first` has over `READ_AT_MOST`
    rows."""
    if len(first) > READ_AT_MOST:
        return []
    known = {_content(file): name for name, file in zip(second["id"][:], second[column])}
    pairs = ((name, known.get(_content(file))) for name, file in zip(first["id"][:], first[column]))
    return [(name, other) for name, other in pairs if other is not None]


def _content(file: dict):
    try:
        content = Path(file["path"]).read_bytes() if file["bytes"] is None else file["bytes"]
    except OSError:
        return file["path"]  # whoever decodes it says more
    return hashlib.sha256(content).digest()
