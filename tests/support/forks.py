"""Runs Python scripts as a command line does, each in a fork of one process that has imported the
libraries: importing them takes several seconds, more than most of the tests' runs."""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch.distributed as dist
import tqdm

from tests.support.helpers import ROOT

# between what two processes have written
NEXT_PROCESS = "\n---- next process ----\n"
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.support.preloaded"])


def run_script(
    script: object,
    *arguments: object,
    processes: int = 1,
    check: bool = True,
    timeout: float = 300,
    cwd: Path = ROOT,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess:
    """Runs `python script arguments`, in connected processes as torchrun would start them.

    Args:
        check: fail with what the processes have written to stderr where an exit code is not 0.
        environment: variables that are added. Those that libraries read when they are imported
            have no effect.

    Returns:
        an exit code that is not 0 if there is one (negative for a signal), and what all processes
        have written, with `NEXT_PROCESS` between them.
    """
    command = [str(part) for part in (script, *arguments)]
    store = None
    if processes > 1:
        store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder, str(rank)) for rank in range(processes)]
        environments = _environments(processes, environment or {}, store)
        started = [
            _context.Process(target=_run, args=(command, str(cwd), variables, str(output)))
            for variables, output in zip(environments, outputs)
        ]
        for process in started:
            process.start()
        _wait(started, timeout, command)
        stdout, stderr = (
            NEXT_PROCESS.join(Path(f"{output}{end}").read_text() for output in outputs)
            for end in (".out", ".err")
        )
    codes = [process.exitcode for process in started]
    code = max(codes) or min(codes)
    assert not check or code == 0, stderr[-5000:]
    return subprocess.CompletedProcess(command, code, stdout, stderr)


def _environments(
    processes: int, added: Mapping[str, str], store: dist.TCPStore | None
) -> Iterator[dict[str, str]]:
    """The variables of each process, as torchrun sets them."""
    common = {**os.environ, **added}
    if store is None:
        yield common
        return
    # The store belongs to this process, as torchrun's does, and outlives the others.
    common |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    common |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port)}
    common |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    for rank in map(str, range(processes)):
        yield {**common, "RANK": rank, "LOCAL_RANK": rank}


def _wait(started: list, timeout: float, command: list[str]) -> None:
    end = time.monotonic() + timeout
    for process in started:
        process.join(max(0.0, end - time.monotonic()))
    late = [process for process in started if process.exitcode is None]
    for process in late:
        process.kill()
        process.join()
    if late:
        raise subprocess.TimeoutExpired(command, timeout)


def _run(command: list[str], cwd: str, environment: dict[str, str], output: str) -> None:
    """What a fork does. Its exit code is that of Python for the script."""
    for stream, end in ((sys.stdout, ".out"), (sys.stderr, ".err")):
        with open(output + end, "w") as file:
            os.dup2(file.fileno(), stream.fileno())
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    # tqdm's own lock is shared between processes, and one that a signal ends never gives it back.
    tqdm.tqdm.set_lock(threading.RLock())
    sys.argv[:] = command
    sys.path.insert(0, str(Path(command[0]).resolve().parent))
    runpy.run_path(command[0], run_name="__main__")
