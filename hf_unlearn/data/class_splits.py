"""Splits of samples that have a class: classes or single samples that are forgotten, what is
retained, and what shows whether both worked."""

from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import TypeVar

from datasets import Dataset

from .earlier import EarlierRequest, Roles, set_apart
from .names import check_spellings
from .row_checks import check_owners
from .rows import RowKind
from .sampling import (
    balanced,
    drop_values,
    groups_of,
    hold_out,
    sample_count,
    sample_remaining,
    select_groups,
    sorted_by_id,
)
from .splits import Splits, check_apart, check_files_apart

Kind = TypeVar("Kind", bound="ClassSplits")


@dataclass(frozen=True, kw_only=True)
class ClassSplits(Splits):
    """Samples by their part in unlearning. No sample is in two of forget, forget_test, retain_pool
    and test.

    Attributes:
        forget: training samples that are forgotten.
        forget_test: unseen samples of the forgotten classes; empty if single samples are forgotten.
        retain: the retain set, balanced over classes: a part of retain_pool, or of a proxy.
        retain_pool: all other training samples.
        retain_rest: samples of retain_pool outside of retain, only to be evaluated.
        test: unseen samples of the retained classes; of all classes if single samples are
            forgotten.
        classes: all classes, in the order of their labels.
        proxy: whether retain comes from another dataset.
    """

    evaluated = ("forget", "forget_test", "retain", "retain_rest", "test")

    classes: list[str]
    proxy: bool = False

    def describe(self) -> dict:
        """What results.json keeps: as for other splits, and whether the retain set is a proxy."""
        return {"proxy": self.proxy, **super().describe()}


@dataclass(frozen=True, kw_only=True)
class ClassRequest:
    """What is to be forgotten of samples that have a class, and what is to be retained.

    Attributes:
        forget_classes: forget all samples of these classes; with `forget_samples`, the classes to
            draw from.
        forget_samples: how many training samples to forget, drawn at random; below 1, as a share.
        forget_ids: ids of the training samples to forget. Excludes the other two.
        retain_size: size of the retain set; below 1, as a share of what it is drawn from.
        retain_rest: how many samples of retain_pool outside of the retain set are evaluated.
        retain_classes: the classes to draw the retain set from; empty: all that are not forgotten.
    """

    forget_classes: Collection[str] = ()
    forget_samples: float | None = None
    forget_ids: Collection[str] = ()
    retain_size: float
    retain_rest: int = 0
    retain_classes: Collection[str] = ()

    @classmethod
    def of(cls, options: object) -> "ClassRequest":
        """The request that the options of a recipe's data make, which have the same names."""
        return cls(**{field.name: getattr(options, field.name) for field in fields(cls)})

    @property
    def forgotten_classes(self) -> set[str]:
        """The classes that are forgotten as a whole."""
        single_samples = bool(self.forget_ids or self.forget_samples)
        return set() if single_samples else set(self.forget_classes)

    def check(self, train: Dataset) -> None:
        """Raises ValueError if the request is empty, names samples in two ways, or names all
        classes of the training rows."""
        classes, samples, ids = self.forget_classes, self.forget_samples, self.forget_ids
        if not (classes or samples or ids):
            raise ValueError(
                "nothing to forget: name forget_classes, or give forget_samples or forget_ids"
            )
        if ids and (classes or samples):
            raise ValueError(
                "forget_ids already says which samples: leave out forget_classes and forget_samples"
            )
        if classes and not samples and not groups_of(train, "class") - set(classes):
            raise ValueError(
                f"the data has no class but those to forget ({', '.join(classes)}): there must be "
                "another to keep"
            )


def split_by_class(
    parts: type[Kind],
    train: Dataset,
    classes: list[str],
    request: ClassRequest,
    *,
    held_out: float = 0.1,
    test: Dataset | None = None,
    proxy: Dataset | None = None,
    earlier: Collection[EarlierRequest] = (),
    seed: int = 0,
) -> Kind:
    """Splits rows with the columns id, class and that of their files. The result depends on the
    rows and the seed, not on the order of the rows.

    Args:
        parts: the class of the result, which knows the kind of the rows.
        classes: all class names, in the order of their labels.
        held_out: share of each class that is taken out of `train` as unseen, if there is no `test`.
        proxy: rows of another dataset to draw the retain set from.
        earlier: the earlier requests, whose classes and samples are left out of all splits, with a
            warning, and evaluated again.

    Raises:
        ValueError: nothing, everything or something unknown is to be forgotten; the retain set
            would hold a forgotten class (perhaps by another spelling) or sample, or what an earlier
            request forgot; a sample is in both `train` and `test`; a size is out of range.
    """
    kind, named = parts.kind, request.forget_classes
    check_owners(kind, named, train["class"][:], "the training split")
    check_spellings(named, [*classes, *request.retain_classes], "class", "forget_classes")
    roles = {"class": Roles(named, request.retain_classes), "id": Roles(request.forget_ids)}
    (train, test, proxy), evaluated_again = set_apart(
        [train, test, proxy], earlier, roles, held_out=held_out, seed=seed
    )
    request.check(train)
    if test is None:
        train, test = hold_out(train, "class", classes, held_out, seed)
    check_apart(train, test, kind)
    unseen_classes = sorted(groups_of(test, "class"))
    check_owners(kind, unseen_classes, classes, "the training split (classes of the test split)")
    forget = _forget_set(kind, train, request, seed)
    pool = sorted_by_id(drop_values(train, "id", forget["id"][:]))
    retain = _retain_set(kind, pool if proxy is None else proxy, classes, request, seed)
    check_files_apart(forget, retain, kind, proxy=proxy is not None)
    used_ids = retain["id"][:] if proxy is None else ()
    return parts(
        forget=forget,
        forget_test=select_groups(test, "class", request.forgotten_classes),
        retain=retain,
        retain_pool=pool,
        retain_rest=sample_remaining(pool, used_ids, "class", request.retain_rest, seed),
        test=select_groups(test, "class", set(classes) - request.forgotten_classes),
        classes=classes,
        seed=seed,
        proxy=proxy is not None,
        earlier=evaluated_again,
    )


def _forget_set(kind: RowKind, train: Dataset, request: ClassRequest, seed: int) -> Dataset:
    ids, classes, samples = request.forget_ids, request.forget_classes, request.forget_samples
    if ids:
        train_ids = set(train["id"][:])
        unknown = [name for name in ids if name not in train_ids]
        if unknown:
            raise ValueError(
                f"{len(unknown)} of forget_ids are not training {kind.samples}, such as "
                f"'{unknown[0]}': give values of id_column in the training split"
            )
        return select_groups(train, "id", ids)
    candidates = select_groups(train, "class", classes) if classes else sorted_by_id(train)
    if not samples:
        return candidates
    count = sample_count(samples, len(candidates), "forget_samples", kind.samples)
    if count == len(train):
        raise ValueError(
            f"forget_samples is {samples:g}, which is all {count} training {kind.samples}, so "
            "nothing would be retained: forget fewer"
        )
    # Drawn at random, not balanced over classes.
    return sorted_by_id(candidates.shuffle(seed=seed).select(range(count)))


def _retain_set(
    kind: RowKind, source: Dataset, classes: Collection[str], request: ClassRequest, seed: int
) -> Dataset:
    retained = set(request.retain_classes) or groups_of(source, "class") & set(classes)
    both = sorted(retained & request.forgotten_classes)
    if both:
        raise ValueError(
            f"the retain set holds the forgotten class {', '.join(map(repr, both))}: name the "
            "other classes in retain_classes"
        )
    check_owners(kind, sorted(retained), source["class"][:], "the data of the retain set")
    pool = select_groups(source, "class", retained)
    if not len(pool):
        raise ValueError(
            "the retain set is empty: its data has none of the classes of the training split. Give "
            "data that has them, or name its classes in retain_classes"
        )
    count = sample_count(request.retain_size, len(pool), "retain_size", kind.samples)
    return balanced(pool, "class", count, seed)
