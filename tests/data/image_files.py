"""Images in memory and in folders, and options to load them."""

import io
from pathlib import Path

import numpy as np
import PIL.Image

from hf_unlearn.data.images import ImageArguments

CLASSES = ["cat", "dog", "owl"]


def picture(seed=0, size=(8, 8), mode="RGB") -> PIL.Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (*size, 4), dtype=np.uint8)
    return PIL.Image.fromarray(values, "RGBA").convert(mode)


def png(image: PIL.Image.Image) -> dict:
    file = io.BytesIO()
    image.save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def arguments(folder, **options) -> ImageArguments:
    defaults = {"test_split": "test", "retain_size": 6, "forget_classes": ["dog"]}
    return ImageArguments(dataset=str(folder), **{**defaults, **options})


def ids(rows):
    return set(rows["id"][:])


def write_folder(root: Path) -> Path:
    """<split>/<class>/<number>.png: 6 training and 3 test images of each class."""
    for split, count in (("train", 6), ("test", 3)):
        for number, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for take in range(count):
                picture(100 * number + take).save(root / split / name / f"{take}.png")
    return root
