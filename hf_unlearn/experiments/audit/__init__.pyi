"""The names of `hf_unlearn.experiments.audit`, which loads them when they are first asked for."""

from .door import Door as Door
from .door import DoorUnavailable as DoorUnavailable
from .door import Subject as Subject
from .doors import DOORS as DOORS
from .gaps import Finding as Finding
from .gaps import gap_to_retrained as gap_to_retrained
from .gaps import points_forgotten as points_forgotten
from .run_audit import audit as audit
from .settings import AuditSettings as AuditSettings
