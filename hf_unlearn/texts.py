"""Text files as they were meant: the byte order mark at their beginning says how they are encoded."""

import codecs
from pathlib import Path

# UTF-32 first: its mark for little endian begins with that of UTF-16.
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def text_of(path: str | Path) -> str:
    """What a file says, with "\\n" at the end of its lines: UTF-8, or what its byte order mark says.

    Raises:
        ValueError: it cannot be read in this encoding; the message names the file and the place.
    """
    content = Path(path).read_bytes()
    encoding = next((name for mark, name in MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        name = encoding.removesuffix("-sig").upper()
        raise ValueError(f"{path} is no {name} text (byte {error.start}): save it as UTF-8") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")
