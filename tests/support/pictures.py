"""What a test can see in a picture file."""

from pathlib import Path

import PIL.Image


def size_of_drawing(path: Path) -> tuple[int, int]:
    """Width and height of a PNG in pixels, which has to show more than one colour."""
    with PIL.Image.open(path) as picture:
        assert picture.format == "PNG"
        darkest_and_brightest = picture.convert("L").getextrema()
        assert darkest_and_brightest[0] < darkest_and_brightest[1], f"{path.name} is blank"
        return picture.size
