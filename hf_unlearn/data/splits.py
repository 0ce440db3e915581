"""What splits of speech and of images share: their parts, and checks that the parts are apart."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from datasets import Dataset
from transformers.utils import logging

from .rows import RowKind
from .sampling import balanced

logger = logging.get_logger(__name__)

# Files to forget are compared with those of the retain set only up to this number.
MAX_COMPARED_FILES = 10_000


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Samples by their part in unlearning. A sample is in one part only, except that retain and
    retain_rest are parts of retain_pool, and that two earlier requests may have named it.

    Attributes:
        earlier: what each earlier request made the model forget, as "earlier_1" and so on; only to
            be evaluated.
    """

    kind: ClassVar[RowKind]
    # The splits to report, in this order.
    evaluated: ClassVar[tuple[str, ...]]

    forget: Dataset
    forget_test: Dataset
    retain: Dataset
    retain_pool: Dataset
    test: Dataset
    seed: int
    # training samples outside of the retain set, only to be evaluated
    retain_rest: Dataset | None = None
    earlier: dict[str, Dataset] = field(default_factory=dict)

    def parts(self) -> dict[str, Dataset]:
        """All parts by their names."""
        parts = {name: part for name, part in vars(self).items() if isinstance(part, Dataset)}
        return {**parts, **self.earlier}

    def describe(self) -> dict:
        """What results.json keeps: the seed, numbers of samples and speakers or classes of each
        part, and the ids of the forget and the retain set."""
        parts = self.parts()
        owner = self.kind.owner
        return {
            "seed": self.seed,
            self.kind.samples: {name: len(part) for name, part in parts.items()},
            self.kind.owners: {name: sorted(set(part[owner][:])) for name, part in parts.items()},
            "forget_ids": self.forget["id"][:],
            "retain_ids": self.retain["id"][:],
        }

    def evaluation(self, max_samples: int | None = None) -> dict[str, Dataset]:
        """The splits to report, in the order of `evaluated`, then those of earlier requests;
        without empty ones.

        Each is bounded to `max_samples` rows, which are balanced over speakers or classes and
        depend on the seed only.
        """
        parts = {name: self.bounded(name, max_samples) for name in (*self.evaluated, *self.earlier)}
        return {name: part for name, part in parts.items() if part is not None and len(part)}

    def bounded(self, name: str, max_samples: int | None) -> Dataset | None:
        """One part as `evaluation` bounds it; None if there is no such part."""
        part = self.earlier[name] if name in self.earlier else getattr(self, name)
        if part is None or not len(part):
            return part
        return balanced(part, self.kind.owner, max_samples, self.seed)


def check_apart(train: Dataset, test: Dataset, kind: RowKind) -> None:
    """Raises ValueError if an id is in both the training and the test split."""
    shared = sorted(set(train["id"][:]) & set(test["id"][:]))
    if shared:
        raise ValueError(
            f"{len(shared)} ids of {kind.samples} are in both the training and the test split, "
            f"among them '{shared[0]}': name splits that do not overlap, or an id_column that is "
            "unique over both"
        )


def check_files_apart(
    forget: Dataset, retain: Dataset, kind: RowKind, *, proxy: bool = False
) -> None:
    """Warns if a file to forget is in the retain set, too, under another id.

    Args:
        proxy: whether the retain set comes from another dataset.

    Raises:
        ValueError: the retain set comes from another dataset and holds such a file.
    """
    pairs = _identical_files(forget, retain, kind.content)
    if not pairs:
        return
    finding = (
        f"{len(pairs)} {kind.samples} to forget are in the retain set, too (the same file), such "
        f"as {' and '.join(pairs[0])}"
    )
    if proxy:
        raise ValueError(f"{finding}: take them out of retain_dataset")
    logger.warning(f"{finding}: take one of each pair out of the data")


def _identical_files(first: Dataset, second: Dataset, content: str) -> list[tuple[str, str]]:
    """Pairs of ids whose files have the same bytes; none if `first` has more than
    `MAX_COMPARED_FILES` rows."""
    if len(first) > MAX_COMPARED_FILES:
        return []
    names = {_digest(file): name for name, file in zip(second["id"][:], second[content])}
    pairs = ((name, names.get(_digest(file))) for name, file in zip(first["id"][:], first[content]))
    return [(name, other) for name, other in pairs if other is not None]


def _digest(file: dict) -> bytes | str:
    try:
        content = Path(file["path"]).read_bytes() if file["bytes"] is None else file["bytes"]
    except OSError:
        # Decoding it later raises with the reason.
        return file["path"]
    return hashlib.sha256(content).digest()
