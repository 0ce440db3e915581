"""Images of known classes: sources, samples and splits."""

from .image_arguments import ImageArguments
from .sources import load_images

__all__ = ["ImageArguments", "load_images"]
