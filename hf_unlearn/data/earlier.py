"""Samples that earlier requests made the model forget: found in the data, and evaluated again."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from datasets import Dataset

from .sampling import groups_of, hold_out, select_groups


@dataclass(frozen=True)
class EarlierRequest:
    """One earlier request.

    Attributes:
        number: its place in the model's ledger, from 1.
        column: the column of the data that it named: "speaker", "class" or "id".
        knows: whether a name in that column is one that was forgotten.
    """

    number: int
    column: str
    knows: Callable[[str], bool]

    @property
    def split(self) -> str:
        """The name of its samples among the splits that are evaluated."""
        return f"earlier_{self.number}"


def earlier_parts(
    requests: Iterable[EarlierRequest],
    column: str,
    train: Dataset,
    test: Dataset | None,
    *,
    forgotten: Collection[str],
    held_out: float,
    seed: int,
) -> dict[str, Dataset]:
    """The training rows of what earlier requests named, by the request's split.

    With the seed and the `held_out` of the earlier request they are its forget set. Requests that
    named nothing in the training data have no split.

    Args:
        column: only requests that named something in this column are looked at.
        forgotten: the names that are to be forgotten now, which are no longer earlier ones.
        held_out, seed: as for `hold_out`, which is done where `test` has none of a name's rows.
    """
    parts = {}
    names = groups_of(train, column) - set(forgotten)
    for request in requests:
        known = known_names([request], column, names)
        if known:
            rows = select_groups(train, column, known)
            if column != "id":
                without_test = known - groups_of(test, column)
                rows, _ = hold_out(rows, column, without_test, held_out, seed)
            parts[request.split] = rows
    return parts


def known_names(
    requests: Iterable[EarlierRequest], column: str, names: Collection[str]
) -> set[str]:
    """Those of `names` in a column that one of the requests knows."""
    own = [request for request in requests if request.column == column]
    return {name for name in names if any(request.knows(name) for request in own)}
