"""Waiting of processes that no timeout ends: a barrier of torch.distributed fails after
`ddp_timeout` (30 minutes)."""

import contextlib
import itertools
import socket
import time
from collections.abc import Iterator

import torch.distributed as dist

SECONDS = 0.1  # between two looks
_turns = itertools.count()


@contextlib.contextmanager
def first_process_first(first: bool, *, everywhere: bool = False) -> Iterator[None]:
    """Lets a process do some long work before the others do it (and find its results in a cache);
    then all go on together.

    All processes come here the same number of times.

    Args:
        first: whether this process is the one, on each machine.
        everywhere: there is only one for all machines.
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


def main_process_first(args):
    """`first_process_first` for transformers' arguments, in the place of
    `args.main_process_first`."""
    several = args.world_size > 1  # to ask connects the processes
    return (
        first_process_first(args.local_process_index == 0) if several else contextlib.nullcontext()
    )


def _wait(until) -> None:
    while not until():
        time.sleep(SECONDS)
