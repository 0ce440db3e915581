"""Images of known classes: the options, and what a model takes of them."""

import io
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import datasets
import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from torch.utils.data import Dataset

logger = logging.getLogger(__name__)

REMEMBERED = 2**28  # bytes of pixel values that are kept in memory once they are computed
MODES = {1: "L", 3: "RGB"}  # channels of a model: mode of PIL


@dataclass
class ImageArguments:
    """The data of an image recipe: where it is, what is forgotten, how much is retained."""

    _argument_group_name = "data"

    dataset: str = field(
        default="uoft-cs/cifar10",
        metadata={
            "help": "Hub id; folder of images, <split>/<class>/<image> or with metadata.csv; "
            "folder or table with an "
            "image and a label column (parquet, arrow, json, csv with paths)"
        },
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration on the Hub"})
    dataset_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of the dataset on the Hub"}
    )
    train_split: str = field(
        default="train", metadata={"help": "Split that the model was trained on"}
    )
    test_split: str | None = field(
        default=None,
        metadata={"help": "Split of unseen images; without it a share of train_split is held out"},
    )
    image_column: str = field(
        default="image", metadata={"help": "Column of the image (CIFAR on the Hub: img)"}
    )
    label_column: str = field(
        default="label", metadata={"help": "Column of the class (CIFAR-100: fine_label)"}
    )
    id_column: str = field(
        default="id",
        metadata={
            "help": "Column of unique ids; where there is none, paths or row numbers are the ids"
        },
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Keep only the images asked for of a Hub set, and stop reading once all are "
            "there (which takes "
            "max_images_per_class)"
        },
    )
    forget_classes: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Names of the classes to forget; with forget_samples: of the classes to "
            "draw them from"
        },
    )
    forget_samples: float | None = field(
        default=None,
        metadata={
            "help": "Forget so many training images drawn at random, not classes; below 1, "
            "the share of them"
        },
    )
    forget_ids: list[str] = field(
        default_factory=list, metadata={"help": "Forget the training images of these ids"}
    )
    held_out: float = field(
        default=0.1,
        metadata={"help": "Share of each class kept out of training, where there is no test_split"},
    )
    retain_size: float = field(
        default=256,
        metadata={
            "help": "Images in the retain set; below 1, the share of those that can be retained"
        },
    )
    retain_rest: int = field(
        default=0,
        metadata={
            "help": "Evaluate so many training images that are retained but not in the retain set, "
            "too: what of the "
            "training data is kept that unlearning does not see"
        },
    )
    retain_classes: list[str] = field(
        default_factory=list,
        metadata={"help": "Classes that the retain set is drawn from; none: all not forgotten"},
    )
    retain_dataset: str | None = field(
        default=None,
        metadata={
            "help": "A proxy: draw the retain set from this dataset in place of the training "
            "data (CINIC-10)"
        },
    )
    retain_config: str | None = field(
        default=None, metadata={"help": "retain_dataset: configuration on the Hub"}
    )
    retain_split: str = field(default="train", metadata={"help": "retain_dataset: split"})
    retain_image_column: str | None = field(
        default=None, metadata={"help": "retain_dataset: column of the image; else image_column"}
    )
    retain_label_column: str | None = field(
        default=None, metadata={"help": "retain_dataset: column of the class; else label_column"}
    )
    max_images_per_class: int | None = field(
        default=None, metadata={"help": "Use at most so many of a class"}
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Evaluate on at most so many of each split"}
    )
    skip_bad_images: bool = field(
        default=False, metadata={"help": "Leave out broken images, with one warning"}
    )
    num_proc: int | None = field(
        default=None, metadata={"help": "Processes that look for broken images"}
    )

    def __post_init__(self):
        for name in ("forget_classes", "forget_ids", "retain_classes"):
            setattr(self, name, _as_names(getattr(self, name)))


def _as_names(names) -> list[str]:
    # One name may come as no list, and from Python as a number.
    if names is None:
        return []
    return [str(name) for name in (names if isinstance(names, list | tuple) else [names])]


def decode_image(image: dict, channels: int = 3) -> PIL.Image.Image:
    """The image of {"bytes", "path"}, turned as its EXIF data say, in grey (channels = 1) or RGB
    (3).

    Palettes and transparency are resolved as by PIL's `convert` (transparency is dropped), 16-bit
    grey is scaled to 8.

    Raises:
        ValueError: missing or broken file, or values that have no range (modes I and F); the
            message names it not.
    """
    try:
        picture = PIL.Image.open(
            image["path"] if image["bytes"] is None else io.BytesIO(image["bytes"])
        )
        picture.load()
        picture = PIL.ImageOps.exif_transpose(picture)
    except (OSError, SyntaxError, AttributeError, PIL.Image.DecompressionBombError) as error:
        raise ValueError(f"cannot be read as an image ({error})") from None
    if picture.mode.startswith("I;16"):
        values = np.asarray(picture, dtype=np.uint16) >> 8
        picture = PIL.Image.fromarray(values.astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise ValueError(
            f"has pixels of mode {picture.mode}, whose range is not known: save it "
            "with 8 bits a channel"
        )
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")
    return picture.convert(MODES[channels])


def drop_broken(
    rows: datasets.Dataset, *, skip: bool, num_proc: int | None = None, description: str = "images"
):
    """The rows whose images can be decoded.

    Raises:
        ValueError: an image cannot, and `skip` is False; or none can. The message names it.
    """
    if not len(rows):
        return rows
    errors = rows.map(
        _error_of,
        remove_columns=rows.column_names,
        num_proc=num_proc,
        desc=f"reading {description}",
    )["error"][:]
    bad = [row for row, error in enumerate(errors) if error]
    if not bad:
        return rows
    ids, first = rows["id"][:], bad[0]
    if not skip:
        raise ValueError(
            f"image {ids[first]} {errors[first]} ({len(bad)} of {len(rows)} in {description}): "
            "remove it, or pass "
            "skip_bad_images to leave such images out"
        )
    if len(bad) == len(rows):
        raise ValueError(
            f"none of the {len(rows)} images of {description} can be read, such as {ids[first]}"
        )
    shown = ", ".join(ids[row] for row in bad[:5])
    logger.warning(
        "%s: skipped %d of %d images that cannot be read: %s",
        description,
        len(bad),
        len(rows),
        shown,
    )
    return rows.select([row for row, error in enumerate(errors) if not error])


def _error_of(row: dict) -> dict:
    try:
        decode_image(row["image"])
    except ValueError as error:
        return {"error": str(error)}
    return {"error": ""}


class ImageRows(Dataset):
    """What a model takes, image by image: pixel_values (channels, height, width) and labels (int).

    Args:
        rows: as `load_images` gives them.
        processor: an image processor of transformers, with or without torchvision.
        labels: label of each class.
        channels: of the model, 1 or 3.
        augment: changes the pixel values, anew each time.
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        processor,
        labels: dict[str, int],
        channels: int = 3,
        augment: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ):
        self.rows, self.processor, self.channels, self.augment = rows, processor, channels, augment
        self.labels = [labels[name] for name in rows["class"][:]]
        self.remembered: dict[int, torch.Tensor] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        pixels = self.remembered.get(index)
        if pixels is None:
            pixels = self._process(index)
            if pixels.nbytes * len(self) <= REMEMBERED:
                self.remembered[index] = pixels
        return {
            "pixel_values": self.augment(pixels) if self.augment else pixels,
            "labels": self.labels[index],
        }

    def _process(self, index: int) -> torch.Tensor:
        picture = decode_image(self.rows[index]["image"], self.channels)
        # A grey picture has no axis of channels, which processors take it to have.
        image = picture if self.channels == 3 else np.array(picture)[:, :, None]
        return self.processor(image, return_tensors="pt")["pixel_values"][0]


@dataclass(frozen=True)
class Moved:
    """Augmentation: moves an image by up to `shift` pixels each way (the edge is repeated), and may
    mirror it."""

    shift: int
    flip: bool

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """pixels: (channels, height, width)."""
        _, height, width = pixels.shape
        padded = torch.nn.functional.pad(pixels[None], [self.shift] * 4, mode="replicate")[0]
        top, left = torch.randint(2 * self.shift + 1, (2,)).tolist()
        moved = padded[:, top : top + height, left : left + width]
        return moved.flip(2) if self.flip and torch.rand(()) < 0.5 else moved


def labels_of(classes: list[str], config) -> dict[str, int]:
    """The label that a model's head has for each class, by name; by order where the head has no
    names of its own.

    Raises:
        ValueError: the head has other labels.
    """
    known = {str(name): label for name, label in config.label2id.items()}
    if set(classes) <= set(known):
        return {name: known[name] for name in classes}
    in_order = {name: label for label, name in enumerate(classes)}
    contradicted = [name for name in classes if name in known and known[name] != in_order[name]]
    if config.num_labels != len(classes) or contradicted:
        raise ValueError(
            f"the model's head has {config.num_labels} labels ({', '.join(list(known)[:3])}, ...), "
            "which do not fit "
            f"the data's {len(classes)} classes ({', '.join(classes[:3])}, ...): give a model "
            "trained on this data, or "
            "train one with model: train and base_model"
        )
    if set(known) != {f"LABEL_{label}" for label in range(len(classes))}:
        logger.warning(
            "The model's labels have other names than the data's classes: they are "
            "matched in order."
        )
    return in_order
