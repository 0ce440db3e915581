"""Images in which nothing tells the class, so that a model can only learn them by heart."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image


def write_noise(folder: Path, count: int, classes: Sequence[str] = ("cat", "dog")) -> Path:
    """Writes `count` training and `count` test images (8 x 8, grey) of each class; the same ones
    each time."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in classes:
            (folder / split / name).mkdir(parents=True)
            for take in range(count):
                pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
                PIL.Image.fromarray(pixels).save(folder / split / name / f"{take}.png")
    return folder
