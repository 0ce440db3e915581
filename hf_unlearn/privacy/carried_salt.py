"""The salt of an earlier run: found beside its model, checked, and carried along to the next run,
so that one person keeps one pseudonym."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from .redaction import SALT, write_salt

# Hexadecimal digits of the ids in a ledger. Their first eight are the pseudonym in cards.
LONG = 16


def salt_name(salt: str) -> str:
    """A name for a salt, by which the right one is recognised. It does not give the salt away."""
    return hashlib.sha256(f"name of the salt {salt}".encode()).hexdigest()[:LONG]


def salts_in(folders: Iterable[str | Path]) -> dict[str, str]:
    """{name: salt} of the salts in some folders, which may not exist."""
    files = (Path(folder) / SALT for folder in folders)
    salts = [file.read_text() for file in files if file.is_file()]
    return {salt_name(salt): salt for salt in salts if salt}


def carry_salt(salt: str, folder: str | Path) -> None:
    """Makes an earlier run's salt that of an output folder, which is made if need be."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    write_salt(salt, folder)


def salted(digest: str, salt: str) -> str:
    """A digest of data that only the owner of the salt can compute. Without the salt, anyone who
    has the data could test whose data was forgotten."""
    return hashlib.sha256(f"{salt}{digest}".encode()).hexdigest()
