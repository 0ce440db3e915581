"""Says in one line why a model could not be loaded."""

import contextlib
from collections.abc import Iterator

from huggingface_hub.errors import HFValidationError

from ..files import one_line


@contextlib.contextmanager
def loading(name: str | None) -> Iterator[None]:
    """Turns errors of loading a model or its processor into one line.

    Raises:
        ValueError: in place of an OSError or HFValidationError; the message names the model.
    """
    try:
        yield
    except (OSError, HFValidationError) as error:
        raise ValueError(f"could not load {name!r}: {one_line(error)}") from error
