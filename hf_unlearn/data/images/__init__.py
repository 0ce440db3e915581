"""Images of known classes: sources, samples and splits."""

from .arguments import ImageArguments
from .sources import load_images

__all__ = ["ImageArguments", "load_images"]
