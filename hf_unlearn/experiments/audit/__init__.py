"""Audits a run: is the forgotten data really gone, or can it be reached through another door?"""

from .door import AuditSettings, Closed, Door, Subject
from .doors import DOORS
from .gap import Finding, forgotten, gap
from .run_audit import audit

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
