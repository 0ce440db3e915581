"""audit.json: an audit that was killed continues from it, and it does not tell whose data was
forgotten."""

import json
import os
import signal
import threading
from pathlib import Path

import pytest
import tqdm

from hf_unlearn.experiments.audit import AuditSettings, audit
from hf_unlearn.experiments.audit.audited_run import find_run
from hf_unlearn.experiments.audit.run_audit import load_subjects
from hf_unlearn.experiments.models.training import rows_digest
from hf_unlearn.files import json_digest
from hf_unlearn.privacy.redaction import salt_of, write_salt
from hf_unlearn.report.file_names import AUDIT

pytestmark = pytest.mark.slow

QUICK = ("float32", "bfloat16", "loss")


def killed_while_it_writes(run: Path, doors: int) -> None:
    """Audits a run in a fork of this process, which kills itself while it replaces audit.json for
    the last of some doors."""
    moved, left = os.replace, doors

    def move(source: Path, target: Path) -> None:
        nonlocal left
        left -= Path(target).name == AUDIT
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        moved(source, target)

    if (child := os.fork()) == 0:
        # tqdm's own lock is shared between processes, and a killed one never gives it back.
        tqdm.tqdm.set_lock(threading.RLock())
        try:
            os.replace = move
            audit(run, doors=QUICK)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


def test_a_killed_audit_continues_after_the_doors_that_it_has_written(run, measured_doors):
    killed_while_it_writes(run, doors=2)
    assert list(json.loads((run / AUDIT).read_text())["doors"]) == ["float32"]
    measured = measured_doors(*QUICK)
    resumed = audit(run)
    assert set(measured) == {"bfloat16", "loss"}
    # As if it had not been killed.
    (run / AUDIT).unlink()
    assert audit(run) == resumed


def test_nobody_without_the_salt_can_test_whose_data_was_forgotten(run):
    digests = {"": data_digest(run)}
    for salt in (salt_of(run), "another salt"):
        write_salt(salt, run)
        made_of = audit(run, doors=["loss"])["made_of"]
        text = (run / AUDIT).read_text()
        assert made_of["data"] in text and digests[""] not in text and salt not in text
        digests[salt] = made_of["data"]
        digests[f"configuration {salt}"] = made_of["configuration"]
    assert len(set(digests.values())) == 5


def data_digest(run: Path) -> str:
    """What anyone who has the data of a run can compute."""
    subjects = load_subjects(find_run(run), AuditSettings())
    rows = subjects["unlearned"].examiner.splits
    return json_digest({name: rows_digest(part) for name, part in rows.items()})
