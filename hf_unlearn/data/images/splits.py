"""Splits of images: classes or single images that are forgotten, what is retained, and what tells
whether both worked."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from datasets import Dataset
from transformers.utils import logging

from ..sampling import (
    balanced,
    by_id,
    check_apart,
    check_spellings,
    count_of,
    hold_out,
    of_groups,
    rest_of,
    same_files,
    without_earlier,
)
from .samples import ImageArguments, drop_broken
from .sources import check_classes, load_images

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class ImageSplits:
    """Images by their part in unlearning; none is in two of forget, forget_test, retain_pool and
    test."""

    forget: Dataset  # training images that are forgotten
    # unseen images of the forgotten classes; empty where single images are forgotten
    forget_test: Dataset
    retain: Dataset  # the retain set, balanced over classes: a part of retain_pool, or of a proxy
    retain_pool: Dataset  # all other training images
    # unseen images of the retained classes; of all classes where single images are forgotten
    test: Dataset
    classes: list[str]  # all, in the order of their labels
    seed: int
    proxy: bool = False  # whether retain comes from another dataset
    # of retain_pool, some that are not in retain: to be evaluated
    retain_rest: Dataset | None = None

    def describe(self) -> dict:
        """What results.json keeps: seed, numbers of images, classes, ids of the forget and the
        retain set."""
        parts = {name: part for name, part in vars(self).items() if isinstance(part, Dataset)}
        return {
            "seed": self.seed,
            "proxy": self.proxy,
            "images": {name: len(part) for name, part in parts.items()},
            "classes": {name: sorted(set(part["class"][:])) for name, part in parts.items()},
            "forget_ids": self.forget["id"][:],
            "retain_ids": self.retain["id"][:],
        }

    def evaluation(self, max_samples: int | None = None) -> dict[str, Dataset]:
        """The splits to report, without empty ones, each bounded by a choice that is balanced over
        classes."""
        parts = {
            name: getattr(self, name)
            for name in ("forget", "forget_test", "retain", "retain_rest", "test")
        }
        return {
            name: balanced(part, "class", max_samples, self.seed)
            for name, part in parts.items()
            if part
        }


def split_images(
    train: Dataset,
    classes: list[str],
    *,
    forget_classes: list[str] = (),
    forget_samples: float | None = None,
    forget_ids: list[str] = (),
    retain_size: float,
    retain_rest: int = 0,
    retain_classes: list[str] = (),
    held_out: float = 0.1,
    test: Dataset | None = None,
    proxy: Dataset | None = None,
    forgotten_before: dict[str, Iterable[str]] | None = None,
    seed: int = 0,
) -> ImageSplits:
    """Splits rows of `load_images`; the result depends on the rows and the seed, not on the order
    of the rows.

    Args:
        forget_classes: forget these classes whole; with `forget_samples`, the classes to draw from.
        forget_samples: forget so many training images, drawn at random; below 1, the share of them.
        forget_ids: forget the training images of these ids. Only one of the three ways can be
            chosen.
        retain_size: size of the retain set; below 1, as a share of what it can be drawn from.
        retain_rest: how many images of retain_pool outside of the retain set are to be evaluated.
        retain_classes: what the retain set is drawn from; none: all classes (that are not
            forgotten).
        held_out: share of each class that is unseen, where there is no `test`.
        proxy: rows of another dataset that the retain set is drawn from.
        forgotten_before: what the model has forgotten already, by the column "class" or "id". It is
            left out of all splits, with a warning.

    Raises:
        ValueError: nothing, everything or something unknown is to be forgotten; a retain set with a
            forgotten class (by another spelling, too) or image, or with what was forgotten before;
            an image in both `train` and `test`; sizes out of range.
    """
    check_classes(forget_classes, train["class"][:], "the training split")
    check_spellings(forget_classes, [*classes, *retain_classes], "class", "forget_classes")
    for by, earlier in (forgotten_before or {}).items():
        forgotten = forget_classes if by == "class" else forget_ids
        kept = retain_classes if by == "class" else ()
        train, test, proxy = without_earlier([train, test, proxy], by, earlier, forgotten, kept)
    whole = not (forget_ids or forget_samples)
    _check_request(train, forget_classes, forget_samples, forget_ids)
    if test is None:
        held = set(hold_out(train, "class", set(classes), held_out, seed))
        test = train.select(sorted(held))
        train = train.select([row for row in range(len(train)) if row not in held])
    check_apart(train, test, "images")
    check_classes(
        sorted(set(test["class"][:])), classes, "the training split (classes of the test split)"
    )
    forgotten = set(forget_classes) if whole else set()
    forget = _forgotten(train, forget_classes, forget_samples, forget_ids, seed)
    out = set(forget["id"][:])
    pool = by_id(train.select([row for row, name in enumerate(train["id"][:]) if name not in out]))
    source = pool if proxy is None else proxy
    retain = _retain_set(source, classes, forgotten, retain_classes, retain_size, seed)
    _check_files_apart(forget, retain, proxy is not None)
    return ImageSplits(
        forget=forget,
        forget_test=of_groups(test, "class", forgotten),
        retain=retain,
        retain_pool=pool,
        test=of_groups(test, "class", set(classes) - forgotten),
        classes=classes,
        seed=seed,
        proxy=proxy is not None,
        retain_rest=rest_of(
            pool, retain["id"][:] if proxy is None else (), "class", retain_rest, seed
        ),
    )


def _check_files_apart(forget: Dataset, retain: Dataset, proxy: bool) -> None:
    same = same_files(forget, retain, "image")
    if not same:
        return
    found = (
        f"{len(same)} images to forget are in the retain set, too, such as {' and '.join(same[0])}"
    )
    if proxy:
        raise ValueError(f"{found}: take them out of retain_dataset")
    logger.warning(f"{found} (the same file): take one of each pair out of the data")


def _check_request(train: Dataset, classes, samples, ids) -> None:
    if not (classes or samples or ids):
        raise ValueError(
            "nothing to forget: name forget_classes, or give forget_samples or forget_ids"
        )
    if ids and (classes or samples):
        raise ValueError(
            "forget_ids already says which images: leave out forget_classes and forget_samples"
        )
    if classes and not samples and not set(train["class"][:]) - set(classes):
        raise ValueError(
            f"the data has no class but those to forget ({', '.join(classes)}): there must be "
            "another to keep"
        )


def _forgotten(train: Dataset, classes, samples, ids, seed: int) -> Dataset:
    if ids:
        rows = {name: row for row, name in enumerate(train["id"][:])}
        unknown = [name for name in ids if name not in rows]
        if unknown:
            raise ValueError(
                f"{len(unknown)} of forget_ids are no training images, such as '{unknown[0]}'"
            )
        return by_id(train.select(sorted({rows[name] for name in ids})))
    candidates = of_groups(train, "class", set(classes)) if classes else by_id(train)
    if not samples:
        return candidates
    count = count_of(samples, len(candidates), "forget_samples", "images")
    if count == len(train):
        raise ValueError(
            f"forget_samples is {samples:g}: all {count} training images, so that "
            "nothing is retained"
        )
    # at random: not balanced over classes
    order = candidates.shuffle(seed=seed).select(range(count))
    return by_id(order)


def _retain_set(
    source: Dataset, classes, forgotten: set[str], wanted, size: float, seed: int
) -> Dataset:
    wanted = set(wanted) or set(source["class"][:]) & set(classes)
    both = sorted(wanted & forgotten)
    if both:
        raise ValueError(
            f"the retain set holds the forgotten class {', '.join(map(repr, both))}: name the "
            "other classes in "
            "retain_classes"
        )
    check_classes(sorted(wanted), source["class"][:], "the data of the retain set")
    pool = of_groups(source, "class", wanted)
    if not len(pool):
        raise ValueError(
            "the retain set is empty: its data has none of the classes of the training split"
        )
    return balanced(pool, "class", count_of(size, len(pool), "retain_size", "images"), seed)


def load_image_splits(
    args: ImageArguments, seed: int, forgotten_before: dict[str, Iterable[str]] | None = None
) -> ImageSplits:
    """The splits that `args` describe, not yet decoded. Takes `forgotten_before`, and raises, as
    `load_images` and `split_images` do."""
    columns = {
        "image_column": args.image_column,
        "label_column": args.label_column,
        "id_column": args.id_column,
    }
    options = {
        "config": args.dataset_config,
        "revision": args.dataset_revision,
        "streaming": args.streaming,
    }
    options["max_images_per_class"] = args.max_images_per_class
    train, classes = load_images(args.dataset, split=args.train_split, **columns, **options)
    test = proxy = None
    if args.test_split:
        test, _ = load_images(args.dataset, split=args.test_split, **columns, **options)
    if args.retain_dataset:
        columns["image_column"] = args.retain_image_column or args.image_column
        columns["label_column"] = args.retain_label_column or args.label_column
        options["config"], options["revision"] = args.retain_config, None
        proxy, _ = load_images(args.retain_dataset, split=args.retain_split, **columns, **options)
    return split_images(
        train,
        classes,
        forget_classes=args.forget_classes,
        forget_samples=args.forget_samples,
        forget_ids=args.forget_ids,
        retain_size=args.retain_size,
        retain_rest=args.retain_rest,
        retain_classes=args.retain_classes,
        held_out=args.held_out,
        test=test,
        proxy=proxy,
        forgotten_before=forgotten_before,
        seed=seed,
    )


def prepare_image_splits(
    splits: ImageSplits, args: ImageArguments, *, retain_pool: bool = True
) -> ImageSplits:
    """The same splits without broken images; the ones only evaluated are first bounded to
    `args.max_eval_samples`.

    `retain_pool=False` does not look at retain_pool, which only training needs. Raises as
    `drop_broken` does.
    """

    def sound(name: str) -> Dataset:
        rows = getattr(splits, name)
        if name in ("forget_test", "test"):
            rows = (
                balanced(rows, "class", args.max_eval_samples, splits.seed) if len(rows) else rows
            )
        return drop_broken(
            rows, skip=args.skip_bad_images, num_proc=args.num_proc, description=name
        )

    names = ["forget", "forget_test", "retain", "test"]
    names += ["retain_pool"] * retain_pool + ["retain_rest"] * (splits.retain_rest is not None)
    return replace(splits, **{name: sound(name) for name in names})
