"""The others wait for one process, even for longer than the timeout of collectives."""

from types import SimpleNamespace

from hf_unlearn.experiments.waiting import first_process_first, main_process_first
from tests.support.forks import run_script

SCRIPT = """
import sys, time
from datetime import timedelta
from pathlib import Path
import torch.distributed as dist
from hf_unlearn.experiments.models.training import one_run_at_a_time
from hf_unlearn.experiments.waiting import first_process_first

dist.init_process_group("gloo")
dist.barrier()
dist.distributed_c10d._set_pg_timeout(timedelta(seconds=2))
folder, rank = Path(sys.argv[1]), dist.get_rank()
for turn in range(2):
    with first_process_first(rank == 0):
        if rank == 0:
            time.sleep(3 if turn == 0 else 0)
            (folder / f"work{turn}").write_text("")
        assert (folder / f"work{turn}").exists()
    (folder / f"done{turn}.{rank}").write_text("")

class Slow:  # as if another run held the lock
    def __init__(self, path): pass
    def acquire(self): time.sleep(3)
    def release(self): pass

import hf_unlearn.experiments.models.training as training
training.FileLock = Slow
with one_run_at_a_time(folder / "model", main=rank == 0) as missing:
    assert missing
try:
    with first_process_first(rank == 0):
        raise ValueError("both find the same")
except ValueError:
    (folder / f"refused.{rank}").write_text("")
dist.destroy_process_group()
"""


def test_no_collective_waits_for_the_main_process(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    run_script(tmp_path / "script.py", tmp_path, processes=2)
    written = {path.name for path in tmp_path.glob("*.?")}
    assert written >= {
        f"{name}.{rank}" for name in ("done0", "done1", "refused") for rank in (0, 1)
    }


def test_one_process_waits_for_nobody():
    with first_process_first(True), main_process_first(SimpleNamespace(world_size=1)):
        pass
