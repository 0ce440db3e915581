"""The names of `hf_unlearn.experiments.audit`, which loads them when they are first asked for."""

from .door import Closed as Closed
from .door import Door as Door
from .door import Subject as Subject
from .doors import DOORS as DOORS
from .gaps import Finding as Finding
from .gaps import forgotten as forgotten
from .gaps import gap as gap
from .run_audit import audit as audit
from .settings import AuditSettings as AuditSettings
