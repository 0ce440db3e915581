"""Samples that earlier requests made a model forget: left out of the data, and evaluated again."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from datasets import Dataset
from transformers.utils import logging

from .names import SHOWN, spelling
from .sampling import drop_values, groups_of, hold_out, select_groups

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class EarlierRequest:
    """One earlier request.

    Attributes:
        number: its number in the model's ledger, from 1; None for names that belong to no entry of
            a ledger. Their samples are left out of the data, but not evaluated again.
        column: the column of the data that it named: "speaker", "class" or "id".
        knows: whether a name in that column is one that was forgotten.
    """

    number: int | None
    column: str
    knows: Callable[[str], bool]

    @classmethod
    def of_names(cls, column: str, names: Iterable[str]) -> "EarlierRequest":
        """A request without a ledger entry, from the names that it forgot, in any spelling."""
        normal = normal_form(column)
        forgotten = {normal(str(name)) for name in names}
        return cls(None, column, lambda name: normal(name) in forgotten)

    @property
    def split(self) -> str:
        """The name of its samples among the splits that are evaluated.

        Raises:
            ValueError: the request has no number, so that its samples are not evaluated.
        """
        if self.number is None:
            raise ValueError(
                f"a request that gives only names of the column {self.column} has no split: give "
                "it a number to evaluate its samples"
            )
        return f"earlier_{self.number}"


@dataclass(frozen=True)
class Roles:
    """The names in one column that have a part in the new request.

    Attributes:
        forgotten: to be forgotten now, perhaps again: they no longer count as earlier ones.
        retained: named by the user as to be retained.
    """

    forgotten: Collection[str] = ()
    retained: Collection[str] = ()


def set_apart(
    parts: Sequence[Dataset | None],
    requests: Collection[EarlierRequest],
    roles: Mapping[str, Roles],
    *,
    held_out: float,
    seed: int,
    evaluated: Dataset | None = None,
) -> tuple[list[Dataset | None], dict[str, Dataset]]:
    """Takes what earlier requests named out of the data, unless it is to be forgotten again.

    One warning for each column names what is left out.

    Args:
        parts: the training rows, the unseen rows, and rows of other parts.
        roles: by the columns "speaker", "class" and "id", which are looked at one after the other:
            a sample that two requests named by different columns belongs to the first.
        held_out, seed: as for `hold_out`, which is done where the unseen rows have none of a name.
            With those of the earlier request, its rows are its forget set.
        evaluated: the rows to find the requests' samples in, if not the training rows.

    Returns:
        The parts, and the training rows of each request by its split. Requests that named nothing
        in the data have none.

    Raises:
        ValueError: something forgotten by an earlier request is to be retained.
    """
    earlier_rows = {}
    for column, role in roles.items():
        train, test = parts[:2]
        rows = train if evaluated is None else evaluated
        earlier_rows |= _rows_of_requests(
            requests, column, rows, test, role.forgotten, held_out, seed
        )
        parts = _without_forgotten(parts, requests, column, role)
    return list(parts), earlier_rows


def normal_form(column: str) -> Callable[[str], str]:
    """How the names in a column are compared: ids exactly, other names in any spelling."""
    return str if column == "id" else spelling


def known_names(
    requests: Iterable[EarlierRequest], column: str, names: Collection[str]
) -> set[str]:
    """Those of `names` in a column that one of the requests knows."""
    column_requests = [request for request in requests if request.column == column]
    return {name for name in names if any(request.knows(name) for request in column_requests)}


def _rows_of_requests(
    requests: Iterable[EarlierRequest],
    column: str,
    train: Dataset,
    test: Dataset | None,
    forgotten: Collection[str],
    held_out: float,
    seed: int,
) -> dict[str, Dataset]:
    """The training rows of what the requests of a ledger named, by the request's split."""
    parts = {}
    names = groups_of(train, column) - set(forgotten)
    for request in requests:
        request_names = set() if request.number is None else known_names([request], column, names)
        if request_names:
            rows = select_groups(train, column, request_names)
            if column != "id":
                without_test = request_names - groups_of(test, column)
                rows, _ = hold_out(rows, column, without_test, held_out, seed)
            parts[request.split] = rows
    return parts


def _without_forgotten(
    parts: Sequence[Dataset | None],
    requests: Collection[EarlierRequest],
    column: str,
    role: Roles,
) -> Sequence[Dataset | None]:
    """The parts without what the requests named in a column, in any spelling."""
    normal = normal_form(column)
    present = {name for rows in parts if rows is not None for name in rows[column][:]}
    forgotten_names = known_names(requests, column, {*present, *role.retained})
    earlier = set(map(normal, forgotten_names)) - set(map(normal, role.forgotten))
    also_retained = sorted(name for name in role.retained if normal(name) in earlier)
    if also_retained:
        raise ValueError(
            f"a {column} to be retained was already forgotten by an earlier request: "
            f"{', '.join(also_retained)}. Leave it out, or start from a model that still knows it"
        )
    dropped = sorted(name for name in present if normal(name) in earlier)
    if not dropped:
        return parts
    _warn_of_left_out(column, dropped, requests)
    return [None if rows is None else drop_values(rows, column, dropped) for rows in parts]


def _warn_of_left_out(
    column: str, names: Sequence[str], requests: Collection[EarlierRequest]
) -> None:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    in_ledger = [request for request in requests if request.number is not None]
    again = [request.split for request in in_ledger if known_names([request], column, names)]
    except_for = f" except {', '.join(again)}" if again else ""
    logger.warning_once(
        f"{column} {', '.join(names[:SHOWN])}{more} already forgotten by this model: left out of "
        f"all splits{except_for}."
    )
