"""Splits of images: classes or single images that are forgotten, what is retained, and what shows
whether both worked."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial

from datasets import Dataset

from ..class_splits import ClassRequest, ClassSplits, split_by_class
from ..earlier import EarlierRequest
from .image_arguments import ImageArguments
from .samples import drop_broken
from .sources import IMAGES, load_images


@dataclass(frozen=True, kw_only=True)
class ImageSplits(ClassSplits):
    """Images by their part in unlearning (see `ClassSplits`)."""

    kind = IMAGES


split_images = partial(split_by_class, ImageSplits)


def load_image_splits(
    args: ImageArguments,
    seed: int,
    earlier: Collection[EarlierRequest] = (),
) -> ImageSplits:
    """Loads the splits that `args` describe; the images are not decoded yet.

    Args:
        earlier: as for `split_images`.

    Raises:
        ValueError: as `load_images` and `split_images` do.
    """
    options = {
        "config": args.dataset_config,
        "image_column": args.image_column,
        "label_column": args.label_column,
        "id_column": args.id_column,
        "revision": args.dataset_revision,
        "streaming": args.streaming,
        "max_images_per_class": args.max_images_per_class,
    }
    train, classes = load_images(args.dataset, split=args.train_split, **options)
    test = proxy = None
    if args.test_split:
        test, _ = load_images(args.dataset, split=args.test_split, **options)
    if args.retain_dataset:
        options |= {
            "config": args.retain_config,
            "image_column": args.retain_image_column or args.image_column,
            "label_column": args.retain_label_column or args.label_column,
            "revision": None,
        }
        proxy, _ = load_images(args.retain_dataset, split=args.retain_split, **options)
    return split_images(
        train,
        classes,
        ClassRequest.of(args),
        held_out=args.held_out,
        test=test,
        proxy=proxy,
        earlier=earlier,
        seed=seed,
    )


def prepare_image_splits(
    splits: ImageSplits, args: ImageArguments, *, retain_pool: bool = True
) -> ImageSplits:
    """The same splits without broken images. Those that are only evaluated are bounded to
    `args.max_eval_samples` first.

    Args:
        retain_pool: False leaves retain_pool unchecked, which only training needs.

    Raises:
        ValueError: as `drop_broken` does.
    """

    def readable(name: str) -> Dataset:
        is_evaluated_only = name in ("forget_test", "test", *splits.earlier)
        return drop_broken(
            splits.bounded(name, args.max_eval_samples if is_evaluated_only else None),
            skip=args.skip_bad_images,
            num_proc=args.num_proc,
            description=name,
        )

    names = ["forget", "forget_test", "retain", "test"]
    names += ["retain_pool"] * retain_pool + ["retain_rest"] * (splits.retain_rest is not None)
    earlier = {name: readable(name) for name in splits.earlier}
    return replace(splits, **{name: readable(name) for name in names}, earlier=earlier)
