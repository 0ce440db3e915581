"""Finds names in texts, however they are spelled and encoded, also in all that a push has sent."""

import base64
import html
import re
import unicodedata
from urllib.parse import unquote

from tests.support.hub_server import Hub

# In a commit each small file is written as base64.
CONTENT = re.compile(rb'"content": ?"([A-Za-z0-9+/=\\n]+)"')


def bare(text: str) -> str:
    """A text decoded, in small letters, with letters and digits only, without accents.

    Written independently of the package, to check it.
    """
    for _ in range(3):
        text = html.unescape(unquote(text))
        text = re.sub(
            r"(?:\\+x[0-9a-f]{2})+",
            lambda match: bytes.fromhex(re.sub(r"\\+x", "", match[0])).decode(errors="ignore"),
            text,
        )
        text = re.sub(
            r"(?:\\+[0-3][0-7]{2})+",
            lambda match: bytes(int(code, 8) for code in re.findall(r"\d{3}", match[0])).decode(
                errors="ignore"
            ),
            text,
        )
        text = re.sub(r"\\+u([0-9a-f]{4})", lambda match: chr(int(match[1], 16)), text)
    text = unicodedata.normalize(
        "NFKD", unicodedata.normalize("NFKD", text.replace("ı", "i")).casefold()
    )
    return "".join(c for c in text if c.isalnum())


def sent(hub: Hub) -> str:
    """Everything that the Hub received, decoded, as `bare` text."""
    texts = []
    for request in hub.received:
        # These ask for the cards of base models.
        if request.startswith((b"GET", b"HEAD")):
            continue
        contents = [base64.b64decode(code) for code in CONTENT.findall(request)]
        texts += [
            part.decode("utf-8", "replace") for part in [CONTENT.sub(b"", request), *contents]
        ]
    return bare("\n".join(texts))


def names_sent(hub: Hub, *names: str) -> list[str]:
    """The names that occur in what the Hub received, in any spelling."""
    received = sent(hub)
    return [name for name in names if bare(name) in received]
