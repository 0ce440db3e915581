"""Brings rows of any source into one form: an id, an owner (a speaker or a class) and a file that
is not decoded."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from types import UnionType

from datasets import Audio, ClassLabel, Dataset, Features, Image, Value
from transformers.utils import logging

from .media import STORED_FILE, as_undecoded_files
from .names import first_few, other_spellings

logger = logging.get_logger(__name__)

# Up to this many names are listed in the message about an unknown one.
LISTED = 20


@dataclass(frozen=True)
class RowKind:
    """What tells rows of speech and rows of images apart.

    The uniform rows have the columns "id", `owner`, `content` and, if `has_text`, "text". These are
    also the roles that a source's own columns play.

    Attributes:
        owner, owners: what can be forgotten as a whole: "speaker", "speakers".
        content: the column of the files: "audio".
        files: what messages call its values: "audio files".
        sample, samples: what messages call rows: "utterance", "utterances".
        feature: the type of the files, with decode=False.
        owner_types: types of a source's values that can name an owner.
        column_options: the options that name the source's columns, for each required role.
        limit_option: the option that bounds the rows of each owner.
        default_ids: gives the ids of rows without one, from the paths of their files, the number of
            the first row, the split, and the folder that ids are relative to.
    """

    owner: str
    owners: str
    content: str
    files: str
    sample: str
    samples: str
    has_text: bool
    feature: Audio | Image
    owner_types: UnionType
    column_options: dict[str, str]
    limit_option: str
    default_ids: Callable[[list[str | None], int, str, Path | None], list[str]]

    @property
    def features(self) -> Features:
        """The columns of uniform rows, in their order."""
        texts = ["id", self.owner, *(["text"] if self.has_text else [])]
        # `datasets` needs torchcodec to write an Audio, but not to cast to one.
        return Features({name: Value("string") for name in texts} | {self.content: STORED_FILE})


@dataclass(frozen=True)
class RowRequest:
    """Which rows to read from a source.

    Args:
        source: a Hub id, or an expanded path.
        columns: the source's own column for each role.
        owners: those to keep, sorted; None keeps all.
        limit: keep at most this many rows of each owner; None keeps all.
        options: names of options that differ from those of the kind, by role, for messages.
    """

    source: str
    config: str | None
    split: str
    columns: dict[str, str]
    revision: str | None = None
    owners: list[str] | None = None
    limit: int | None = None
    options: dict[str, str] = field(default_factory=dict)


def local_path(source: str) -> Path | None:
    """The absolute path of a source on disk; None for a Hub id.

    Raises:
        ValueError: it is a path, but nothing is there.
    """
    if os.path.exists(source):
        return Path(os.path.abspath(source))
    if os.path.isabs(source) or source.startswith(".") or source.count("/") > 1:
        here = "" if os.path.isabs(source) else f" in the working directory {os.getcwd()}"
        raise ValueError(f"no file or folder {source}{here}")
    return None


def make_request(kind: RowKind, source: str | Path, **fields) -> RowRequest:
    """A request with a checked limit, whose source has its "~" expanded.

    Args:
        fields: the other fields of the request.

    Raises:
        ValueError: the limit is below 1.
    """
    request = RowRequest(source=os.path.expanduser(str(source)), **fields)
    if request.limit is not None and request.limit < 1:
        raise ValueError(
            f"{kind.limit_option} is {request.limit}: give a positive number, or none to load all"
        )
    return request


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
            wanted = role if option == kind.column_options[role] else word_of(option)
            alone = names == [kind.content]
            hint = f": {kind.files} of a single folder have no {kind.owner}" if alone else ""
            raise ValueError(
                f"no {wanted} column '{columns[role]}' ({option}) in {source}; its columns are "
                f"{', '.join(names)}{hint}"
            )


def word_of(option: str) -> str:
    """What an option's column holds: "label" for label_column."""
    return option.removesuffix("_column")


def check_owners(
    kind: RowKind, wanted: Iterable[str], known: Iterable[str], source: str | Path
) -> None:
    """Raises ValueError if one of `wanted` is not among `known`. The message has a name that is
    spelled like it, else all names where they are few, else the nearest ones."""
    known = sorted(set(known))
    for name in wanted:
        if name not in known:
            raise ValueError(
                f"unknown {kind.owner} {name!r} in {source}, which has {len(known)} "
                f"{kind.owners}: {_meant(name, known)}"
            )


def _meant(name: str, known: Sequence[str]) -> str:
    """What a message suggests in place of an unknown name."""
    spelled_alike = other_spellings([name], known)
    if spelled_alike or len(known) > LISTED:
        nearest = spelled_alike or get_close_matches(name, known, cutoff=0)
        return f"did you mean {' or '.join(map(repr, nearest))}?"
    return ", ".join(map(repr, known))


def check_wanted(kind: RowKind, request: RowRequest, known: Iterable[str]) -> None:
    """Checks the owners asked for, and warns if the data has other spellings of them.

    Raises:
        ValueError: an owner asked for is unknown.
    """
    wanted, known = request.owners or [], set(known)
    check_owners(kind, wanted, known, request.source)
    if others := other_spellings(wanted, known):
        logger.warning_once(
            f"{request.source} has other spellings of the {kind.owners} asked for, which are left "
            f"out: {first_few(map(repr, others))}"
        )


def check_not_empty(kind: RowKind, count: int, split: str, source: str | Path) -> None:
    if not count:
        raise ValueError(f"split '{split}' of {source} holds no {kind.samples}")


def owner_names(
    kind: RowKind, values: list, feature: object, column: str, source: str | Path
) -> list[str]:
    """The owner of each row as text.

    Args:
        values: the rows' values in the source's own column, named `column`.
        feature: the type of that column. A `ClassLabel` gives its names.

    Raises:
        ValueError: rows without an owner, or values that cannot name one.
    """
    is_label = isinstance(feature, ClassLabel)
    missing = sum(value in (None, "") or (is_label and value == -1) for value in values)
    if missing:
        raise ValueError(
            f"{missing} of {len(values)} rows read from {source} have no {kind.owner} in column "
            f"'{column}'"
        )
    if is_label:
        return feature.int2str(values)
    if not isinstance(values[0], kind.owner_types):
        raise ValueError(
            f"{kind.owner} column '{column}' of {source} holds {feature}: one number or name for "
            f"each {kind.sample} is needed"
        )
    return [str(value) for value in values]


def as_texts(values: list, feature: object) -> list[str]:
    """Values of a text column as texts; "" for missing ones. A `ClassLabel` gives its names."""
    if isinstance(feature, ClassLabel):
        return ["" if value in (None, -1) else feature.int2str(value) for value in values]
    return ["" if value is None else str(value) for value in values]


def row_numbers(split: str, first: int, count: int) -> list[str]:
    """Ids made of the split and the numbers of `count` rows from `first` on."""
    return [f"{split}-{row:09d}" for row in range(first, first + count)]


def row_ids(
    kind: RowKind,
    given: list | None,
    paths: list[str | None],
    first: int,
    split: str,
    root: Path | None,
) -> list[str]:
    """The ids that a source gives; the kind's default ids where it gives none."""
    default = kind.default_ids(paths, first, split, root)
    if given is None:
        return default
    return [other if name is None else str(name) for name, other in zip(given, default)]


def to_uniform_rows(
    kind: RowKind,
    rows: Dataset,
    request: RowRequest,
    source: str | Path,
    *,
    root: Path | None = None,
    find: Callable[[str], str] = str,
) -> Dataset:
    """Rows with the columns of `kind.features`. Files that `rows` embeds are not decoded or copied.

    Args:
        source: what messages name: the source of the request, or a table in it.
        root: the folder that ids are relative to.
        find: gives the place of a file, from its path in `rows`.

    Raises:
        ValueError: a column is missing, there are no rows, a row has no file or no owner, or ids
            repeat.
    """
    columns, split = request.columns, request.split
    check_columns(kind, rows.column_names, columns, source, request.options)
    check_not_empty(kind, len(rows), split, source)
    # `cast` leaves a format behind that hides the columns flattened below.
    rows = rows.with_format(None)
    files = as_undecoded_files(rows, columns[kind.content], kind.feature, find, source)
    # the paths without the bytes
    paths = files.flatten()[f"{kind.content}.path"][:]
    given = rows[columns["id"]][:] if columns["id"] in rows.column_names else None
    owner = columns[kind.owner]
    named = replace(kind, owner=word_of(request.options.get(kind.owner, kind.owner)))
    values = {
        "id": row_ids(kind, given, paths, 0, split, root),
        kind.owner: owner_names(named, rows[owner][:], rows.features[owner], owner, source),
    }
    if kind.has_text:
        texts = rows[columns["text"]][:]
        values["text"] = as_texts(texts, rows.features[columns["text"]])
    _check_unique(kind, values["id"], source)
    for name, column in values.items():
        files = files.add_column(name, column, feature=kind.features[name])
    return files.select_columns(list(kind.features))


def _check_unique(kind: RowKind, ids: list[str], source: str | Path) -> None:
    repeated = [name for name, count in Counter(ids).items() if count > 1]
    if repeated:
        raise ValueError(
            f"{len(repeated)} {kind.sample} ids of {source} are not unique, among them "
            f"'{repeated[0]}': name another id_column"
        )


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
        [row for row, owner in enumerate(rows[kind.owner][:]) if first.accept(owner)]
    )
