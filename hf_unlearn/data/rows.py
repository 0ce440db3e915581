"""Uniform rows: an id, an owner (a speaker or a class) and a file that is not decoded; what tells
kinds of rows apart, and which rows are asked for."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any

from datasets import Audio, Features, Image, Value

from .media import STORED_FILE


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
        owners: those to keep, sorted; None keeps all. No list: `Dataset.from_generator` calls its
            function once for each item of a list, so a stream would be read as often.
        limit: keep at most this many rows of each owner; None keeps all.
        options: names of options that differ from those of the kind, by role, for messages.
    """

    source: str
    config: str | None
    split: str
    columns: dict[str, str]
    revision: str | None = None
    owners: tuple[str, ...] | None = None
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


def make_request(kind: RowKind, source: str | Path, **fields: Any) -> RowRequest:
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
