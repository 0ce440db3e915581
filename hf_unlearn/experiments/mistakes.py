"""Which errors are a user's mistake. These end a program with one line, all others with a
traceback."""

import sysconfig
import traceback
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
STANDARD_LIBRARY = Path(sysconfig.get_path("stdlib")).resolve()

# The option that shows the whole traceback of a mistake, too.
TRACEBACK = "--traceback"
TRACEBACK_HELP = "show where in the code an error comes from"


def is_mistake(error: Exception, recipe: Path | None = None) -> bool:
    """Whether an error is a user's mistake: a ValueError, or an error of files or the connection,
    that this package or a recipe has raised. What the standard library raises counts as raised by
    the code that called it.

    Args:
        recipe: the folder of a recipe's script, whose files may raise such errors, too.
    """
    if not isinstance(error, ValueError | OSError):
        return False
    frames = traceback.extract_tb(error.__traceback__)
    files = [Path(frame.filename).resolve() for frame in frames]
    raised_in = next(file for file in reversed(files) if not _is_within(file, STANDARD_LIBRARY))
    return raised_in.is_relative_to(PACKAGE) or recipe is not None and _is_within(raised_in, recipe)


def _is_within(file: Path, folder: Path) -> bool:
    """Whether a file belongs to a folder. Packages that are installed in it do not."""
    inside = file.is_relative_to(folder) and file.relative_to(folder).parts
    return bool(inside) and "site-packages" not in inside
