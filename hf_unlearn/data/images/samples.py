"""Turns images of known classes into what a model trains on."""

import io
from collections.abc import Callable
from dataclasses import dataclass

import datasets
import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from torch.utils.data import Dataset
from transformers.image_processing_utils import BaseImageProcessor
from transformers.utils import logging

from ..names import first_few

logger = logging.get_logger(__name__)

# bytes of pixel values that are kept in memory once they are computed
MAX_CACHED_BYTES = 2**28
# channels of a model: mode of PIL
MODES = {1: "L", 3: "RGB"}


def decode_image(image: dict, channels: int = 3) -> PIL.Image.Image:
    """Decodes {"bytes", "path"} to a grey (channels = 1) or RGB (3) image, rotated as its EXIF data
    say.

    Palettes are resolved and transparency is dropped as PIL's `convert` does. 16-bit grey is scaled
    to 8 bits.

    Raises:
        ValueError: the file is missing or broken, or its pixels have no fixed range (modes I and
            F); the message omits the file name.
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
            f"has pixels of mode {picture.mode}, whose range is not known: save it with 8 bits a "
            "channel"
        )
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")
    return picture.convert(MODES[channels])


def drop_broken(
    rows: datasets.Dataset, *, skip: bool, num_proc: int | None = None, description: str = "images"
) -> datasets.Dataset:
    """The rows whose images can be decoded.

    Args:
        skip: leave out broken images, with one warning, instead of raising.
        description: what the progress bar and messages call the rows.

    Raises:
        ValueError: an image is broken and `skip` is False, or all are broken. The message names the
            first one.
    """
    if not len(rows):
        return rows
    errors = rows.map(
        _error_of,
        remove_columns=rows.column_names,
        num_proc=num_proc,
        desc=f"reading {description}",
    )["error"][:]
    broken = [row for row, error in enumerate(errors) if error]
    if not broken:
        return rows
    ids, first = rows["id"][:], broken[0]
    if not skip:
        raise ValueError(
            f"image {ids[first]} {errors[first]} ({len(broken)} of {len(rows)} in {description}): "
            "remove it, or pass skip_bad_images to leave such images out"
        )
    if len(broken) == len(rows):
        raise ValueError(
            f"none of the {len(rows)} images of {description} can be read, such as {ids[first]}, "
            f"which {errors[first]}: give images that Pillow can open"
        )
    logger.warning(
        "%s: skipped %d of %d images that cannot be read: %s",
        description,
        len(broken),
        len(rows),
        first_few(ids[row] for row in broken),
    )
    return rows.select([row for row, error in enumerate(errors) if not error])


def _error_of(row: dict) -> dict[str, str]:
    """Why an image cannot be decoded; an empty text if it can."""
    try:
        decode_image(row["image"])
    except ValueError as error:
        return {"error": str(error)}
    return {"error": ""}


class ImageRows(Dataset):
    """Samples of a model: pixel_values (channels, height, width) and labels (int).

    Args:
        rows: as `load_images` gives them.
        processor: an image processor of transformers, with or without torchvision.
        labels: the label of each class.
        channels: of the model's input, 1 or 3.
        augment: changes pixel values; it is called each time that a sample is read.
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        processor: BaseImageProcessor,
        labels: dict[str, int],
        channels: int = 3,
        augment: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ):
        self.rows, self.processor, self.channels, self.augment = rows, processor, channels, augment
        self.labels = [labels[name] for name in rows["class"][:]]
        self._pixels: dict[int, torch.Tensor] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        pixels = self._pixels.get(index)
        if pixels is None:
            pixels = self._process(index)
            if pixels.nbytes * len(self) <= MAX_CACHED_BYTES:
                self._pixels[index] = pixels
        return {
            "pixel_values": self.augment(pixels) if self.augment else pixels,
            "labels": self.labels[index],
        }

    def _process(self, index: int) -> torch.Tensor:
        picture = decode_image(self.rows[index]["image"], self.channels)
        # Processors expect an axis of channels, which a grey picture lacks: (height, width, 1)
        image = picture if self.channels == 3 else np.array(picture)[:, :, None]
        # (1, channels, height, width)
        return self.processor(image, return_tensors="pt")["pixel_values"][0]


@dataclass(frozen=True)
class RandomShift:
    """Augmentation: shifts an image at random by up to `shift` pixels in each direction, and
    mirrors it half of the time if `flip` is set.

    Pixels that the shift uncovers repeat the edge.
    """

    shift: int
    flip: bool

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Takes and gives (channels, height, width)."""
        _, height, width = pixels.shape
        # (channels, height + 2 shift, width + 2 shift)
        padded = torch.nn.functional.pad(pixels[None], [self.shift] * 4, mode="replicate")[0]
        top, left = torch.randint(2 * self.shift + 1, (2,)).tolist()
        moved = padded[:, top : top + height, left : left + width]
        return moved.flip(2) if self.flip and torch.rand(()) < 0.5 else moved
