"""Audits a run: checks whether the forgotten data can still be reached through any "door" (numeric
types, decoding, fine-tuning, attacks)."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .door import Closed, Door, Subject
    from .doors import DOORS
    from .gaps import Finding, forgotten, gap
    from .run_audit import audit
    from .settings import AuditSettings

# Loaded when they are first asked for: the command line only reads the settings.
_MODULE_OF = {
    "DOORS": "doors",
    "AuditSettings": "settings",
    "Closed": "door",
    "Door": "door",
    "Finding": "gaps",
    "Subject": "door",
    "audit": "run_audit",
    "forgotten": "gaps",
    "gap": "gaps",
}

__all__ = [
    "DOORS",
    "AuditSettings",
    "Closed",
    "Door",
    "Finding",
    "Subject",
    "audit",
    "forgotten",
    "gap",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
