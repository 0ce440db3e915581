"""Lets processes wait without a timeout: a barrier of torch.distributed fails after `ddp_timeout`
(30 minutes)."""

import contextlib
import itertools
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch.distributed as dist
from transformers import TrainingArguments

POLL_SECONDS = 0.1
_turns = itertools.count()


@contextlib.contextmanager
def first_process_first(first: bool, *, everywhere: bool = False) -> Iterator[None]:
    """One process runs the block first. The others follow, and find its results in a cache. Then
    all continue together.

    Every process has to enter it the same number of times.

    Args:
        first: whether this process is the first one on its machine.
        everywhere: one process is the first for all machines; otherwise each machine has its own.
    """
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        yield
        return
    store, turn = dist.distributed_c10d._get_default_store(), f"hf_unlearn/turn/{next(_turns)}"
    done = f"{turn}/{'' if everywhere else socket.gethostname()}"
    try:
        if not first:
            _wait(lambda: store.check([done]))
        yield
    finally:
        if first:
            store.set(done, "done")
        store.add(turn, 1)
    _wait(lambda: store.add(turn, 0) >= dist.get_world_size())


def main_process_first(args: TrainingArguments) -> contextlib.AbstractContextManager[None]:
    """`first_process_first` for transformers' arguments, in place of `args.main_process_first`,
    which has a timeout."""
    # Reading `world_size` connects the processes, which `first_process_first` needs.
    if args.world_size == 1:
        return contextlib.nullcontext()
    return first_process_first(args.local_process_index == 0)


def write_if_missing(folder: str, write: Callable[[str], object], args: TrainingArguments) -> None:
    """Writes data to a folder that does not exist yet. Where a run has several processes on a
    machine, one writes, and the others wait."""
    with main_process_first(args):
        if not Path(folder).exists():
            write(folder)


def _wait(until: Callable[[], bool]) -> None:
    while not until():
        time.sleep(POLL_SECONDS)
