"""Chooses rows: at random by the seed, balanced over groups (speakers, classes), or the first of
each group.

What is drawn at random depends on the ids and the seed, never on the order of the rows.
"""

import zlib
from collections import Counter
from collections.abc import Collection, Iterable

import numpy as np
from datasets import Dataset

from .rows import RowKind, RowRequest


def sorted_by_id(rows: Dataset) -> Dataset:
    ids = rows["id"][:]
    return rows.select(sorted(range(len(ids)), key=ids.__getitem__))


def groups_of(rows: Dataset | None, column: str) -> set[str]:
    """The different values of a column; empty if there are no rows."""
    return set() if rows is None else set(rows[column][:])


def select_groups(rows: Dataset, column: str, groups: Collection[str]) -> Dataset:
    """The rows whose value in `column` is one of `groups`, sorted by id."""
    groups = set(groups)
    chosen = [index for index, group in enumerate(rows[column][:]) if group in groups]
    return sorted_by_id(rows.select(chosen))


def drop_values(rows: Dataset, column: str, groups: Collection[str]) -> Dataset:
    """The rows whose value in `column` is none of `groups`, in their order."""
    groups = set(groups)
    return rows.select(
        [index for index, group in enumerate(rows[column][:]) if group not in groups]
    )


def shuffled_by_group(rows: Dataset, column: str, seed: int) -> dict[str, list[int]]:
    """The row numbers of each group, shuffled.

    The order within a group depends only on the seed, the group's name and its ids: other groups
    do not change it.
    """
    ids, groups = rows["id"][:], {}
    for number, group in enumerate(rows[column][:]):
        groups.setdefault(group, []).append(number)
    shuffled = {}
    for group, members in groups.items():
        generator = np.random.default_rng([seed, zlib.crc32(group.encode())])
        members = sorted(members, key=ids.__getitem__)
        shuffled[group] = [members[position] for position in generator.permutation(len(members))]
    return shuffled


def hold_out(
    rows: Dataset, column: str, groups: Collection[str], share: float, seed: int
) -> tuple[Dataset, Dataset]:
    """Splits rows into those to train on and those held out: a share of each of `groups`.

    At least one row of a group is held out if the share is not 0, but never all of them. Other
    groups are trained on whole.

    Returns:
        Training rows; held-out rows.

    Raises:
        ValueError: the share is not in [0, 1).
    """
    if not 0 <= share < 1:
        raise ValueError(
            f"held_out is {share}: give the share of each {column}'s samples to hold out, in [0, 1)"
        )
    held_out = set()
    for group, members in shuffled_by_group(rows, column, seed).items():
        if group in groups and share > 0:
            count = min(max(1, round(share * len(members))), len(members) - 1)
            held_out.update(members[:count])
    training = [row for row in range(len(rows)) if row not in held_out]
    return rows.select(training), rows.select(sorted(held_out))


def balanced(rows: Dataset, column: str, count: int | None, seed: int) -> Dataset:
    """At most `count` rows (None: all), sorted by id, drawn from the groups in turn.

    A larger count adds rows to those of a smaller one.

    Raises:
        ValueError: count is below 1.
    """
    if count is None:
        return rows
    if count < 1:
        raise ValueError(
            f"a split cannot be bounded to {count} samples: give max_eval_samples or retain_rest a "
            "value above 0"
        )
    groups = shuffled_by_group(rows, column, seed)
    order = np.random.default_rng(seed).permutation(len(groups))
    names = [sorted(groups)[index] for index in order]
    # The first row of each group comes before the second row of any.
    draws = sorted(
        (turn, index, row)
        for index, name in enumerate(names)
        for turn, row in enumerate(groups[name])
    )
    return sorted_by_id(rows.select([row for _, _, row in draws[:count]]))


def sample_remaining(
    pool: Dataset, used_ids: Collection[str], column: str, count: int, seed: int
) -> Dataset | None:
    """At most `count` balanced rows of the pool whose ids are not used yet.

    Returns:
        None if no rows are left, or the count is 0.

    Raises:
        ValueError: count is negative.
    """
    if count == 0:
        return None
    remaining = drop_values(pool, "id", used_ids)
    return balanced(remaining, column, count, seed) if len(remaining) else None


def sample_count(size: float, available: int, option: str, samples: str) -> int:
    """`size` as a number of samples: between 0 and 1 a share of those available, and -1 for all.

    Args:
        option, samples: for the message: the option that gives the size, and what is counted
            ("utterances").

    Raises:
        ValueError: the size is not a whole number, below one sample, or above what is available.
    """
    if size == -1:
        return available
    count = round(size * available) if size < 1 else size
    if count != int(count) or count < 1:
        raise ValueError(
            f"{option} is {size}, of {available} {samples}: give a number, a share below 1, or -1 "
            "for all"
        )
    if count > available:
        raise ValueError(
            f"{option} is {size:g}, but only {available} {samples} are available: lower it"
        )
    return int(count)


class FirstOfEach:
    """Chooses the first rows of each owner, as `request.owners` and `request.limit` say."""

    def __init__(self, request: RowRequest):
        self.owners, self.limit = request.owners, request.limit
        self._chosen = Counter()

    def accept(self, owner: str) -> bool:
        """Whether the next row of this owner is chosen; to be asked once for each row."""
        if self.owners is not None and owner not in self.owners:
            return False
        if self.limit is not None and self._chosen[owner] >= self.limit:
            return False
        self._chosen[owner] += 1
        return True

    def is_complete(self, expected: Iterable[str]) -> bool:
        """Whether no further row can be chosen, if all rows belong to the expected owners."""
        return self.limit is not None and all(self._chosen[name] >= self.limit for name in expected)


def first_of_each(kind: RowKind, rows: Dataset, request: RowRequest) -> Dataset:
    """The first rows of each owner, as the request bounds them."""
    if request.owners is None and request.limit is None:
        return rows
    first = FirstOfEach(request)
    return rows.select(
        [index for index, owner in enumerate(rows[kind.owner][:]) if first.accept(owner)]
    )
