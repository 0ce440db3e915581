"""Reads text files in any Unicode encoding, writes files atomically, links them, finds the files of
models, and puts error messages on one line."""

import codecs
import contextlib
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# A model or an adapter on the Hub has one of these.
MODEL_FILES = ("config.json", "adapter_config.json")


@contextlib.contextmanager
def written_whole(target: Path, *, private: bool = False) -> Iterator[Path]:
    """Yields the path of a temporary file, which replaces `target` when the block succeeds.

    After an error, `target` is as it was before. The folder is created if necessary.

    Args:
        private: whether only the owner may read the file, also before it is complete. The block
            must then write to the file that is there, and not replace it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # Two processes may write the same file.
    partial = target.with_name(f".partial-{os.getpid()}-{target.name}")
    try:
        if private:
            partial.touch(mode=0o600)
        yield partial
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-links a file that will not change, or copies it where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def write_json(path: str | Path, content: dict) -> None:
    """Writes strict JSON atomically. NaN and infinities become null.

    Raises:
        TypeError: a value has no counterpart in JSON. The old file is kept.
    """
    text = json.dumps(_plain(content), indent=2, allow_nan=False, ensure_ascii=False)
    with written_whole(Path(path)) as partial:
        partial.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """The content of a JSON file; None where there is none, or where it cannot be read."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def json_digest(value: object) -> str:
    """SHA-256 of a value as JSON with sorted keys. What JSON cannot hold counts as its text."""

    def as_text(part: object) -> str | list[str]:
        # The order of a set changes from process to process.
        return sorted(map(str, part)) if isinstance(part, set) else str(part)

    written = json.dumps(value, sort_keys=True, default=as_text)
    return hashlib.sha256(written.encode()).hexdigest()


def _plain(value: Any) -> Any:
    """Converts `value` to the types of JSON: NumPy and PyTorch numbers, arrays, and paths."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    # an array or tensor, told by its method: the command line works without torch
    if callable(getattr(value, "tolist", None)):
        return _plain(value.tolist())
    raise TypeError(f"{value!r} ({type(value).__name__}) cannot be written as JSON: convert it")


def model_file(name: str, file: str) -> Path | None:
    """A file of a model: in its folder, in the folder of the run that a checkpoint belongs to, or
    on the Hub, from where it is downloaded.

    Args:
        name: folder or Hub id.

    Returns:
        None where there is no such file, or it cannot be downloaded.
    """
    if Path(name).is_dir():
        files = (folder / file for folder in run_folders(name))
        return next((path for path in files if path.is_file()), None)
    return _hub_file(name, file, local_only=False)


def model_folder(name: str | Path) -> Path | None:
    """The folder of a model: `name` itself, or where a model of the Hub was downloaded to."""
    if Path(name).is_dir():
        return Path(name)
    paths = (_hub_file(str(name), file, local_only=True) for file in MODEL_FILES)
    return next((path.parent for path in paths if path is not None), None)


def run_folders(name: str | Path) -> list[Path]:
    """The folder `name`, and that of the run if `name` is one of its checkpoints."""
    folder = Path(name)
    return [folder, folder.parent] if folder.name.startswith("checkpoint-") else [folder]


def _hub_file(name: str, file: str, *, local_only: bool) -> Path | None:
    # The command line works without transformers.
    from transformers.utils import cached_file

    # Loading the model reports what is wrong with its name.
    with contextlib.suppress(OSError, ValueError):
        path = cached_file(
            name,
            file,
            local_files_only=local_only,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            _raise_exceptions_for_gated_repo=False,
        )
        return Path(path) if path else None
    return None


def one_line(error: BaseException) -> str:
    """The message of an error, on one line."""
    return " ".join(str(error).split())


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its class if it has no message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


# UTF-32 comes first because its little-endian mark starts with that of UTF-16.
ENCODING_OF_MARK = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_text_file(path: str | Path) -> str:
    """The text of a file with "\\n" as the line ending.

    A byte order mark determines the encoding; without one the file is read as UTF-8.

    Raises:
        ValueError: the file is not valid in this encoding. The message gives the file and the
            position of the first bad byte.
    """
    content = Path(path).read_bytes()
    marked = (name for mark, name in ENCODING_OF_MARK.items() if content.startswith(mark))
    encoding = next(marked, "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        name = encoding.removesuffix("-sig").upper()
        raise ValueError(
            f"{path} is not valid {name} (byte {error.start}): save it as UTF-8"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")
