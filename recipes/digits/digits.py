"""Writes scikit-learn's handwritten digits (1797 real images of 8 x 8 pixels) to a folder.

    python recipes/digits/digits.py out/digits/images

writes `<folder>/<train or test>/<digit>/<number>.png`, with 30 % of each digit for the test. The
images are part of the UCI data set "Optical Recognition of Handwritten Digits" (Alpaydin & Kaynak,
1998; CC BY 4.0), which comes with scikit-learn.
"""

import argparse
from pathlib import Path

import numpy as np
import PIL.Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


def write_digits(folder: str | Path) -> Path:
    """Writes the folder, completely or not at all."""
    folder = Path(folder)
    partial = folder.with_name(f".{folder.name}.partial")
    images, labels = load_digits(return_X_y=True)
    numbers = {}
    rows = np.arange(len(labels))
    numbers["train"], numbers["test"] = train_test_split(
        rows, test_size=0.3, random_state=0, stratify=labels
    )
    for split, chosen in numbers.items():
        for row in chosen:
            (partial / split / str(labels[row])).mkdir(parents=True, exist_ok=True)
            # scikit-learn's pixels range from 0 to 16
            pixels = (images[row].reshape(8, 8) * 255 / 16).round().astype(np.uint8)
            PIL.Image.fromarray(pixels).save(partial / split / str(labels[row]) / f"{row:04d}.png")
    partial.rename(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", help="where to write the folder of images")
    write_digits(parser.parse_args().folder)


if __name__ == "__main__":
    main()
