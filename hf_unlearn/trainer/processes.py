"""What all processes must agree on: flags, values, and the reason of a failure."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist

FAILURE = "hf_unlearn/failure"


def _several_processes() -> bool:
    return dist.is_initialized() and dist.get_world_size() > 1


def any_process(flags: list[bool], device: torch.device) -> list[bool]:
    """For each flag, whether it is set on any process."""
    if not _several_processes():
        return flags
    shared = torch.tensor(flags, dtype=torch.int32, device=device)
    dist.all_reduce(shared, op=dist.ReduceOp.MAX)
    return shared.bool().tolist()


def all_processes(value: Any) -> list:
    """The values of all processes, in their order. The value must be picklable."""
    if not _several_processes():
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


@contextlib.contextmanager
def reporting_failures_of_others() -> Iterator[None]:
    """Makes the main process report the error of another process instead of the lost connection
    that follows it.

    Raises:
        RuntimeError: on the main process, when another process has failed.
    """
    if not _several_processes():
        yield
        return
    store = dist.distributed_c10d._get_default_store()
    try:
        yield
    except Exception as error:
        mine, process = f"{type(error).__name__}: {error}", dist.get_rank()
        if process != 0 and not store.check([FAILURE]):
            store.set(FAILURE, json.dumps([process, mine]))
        if process == 0 and store.check([FAILURE]):
            other, its = json.loads(store.get(FAILURE))
            # with equal messages, all processes have found the same
            if its != mine:
                raise RuntimeError(f"process {other} has failed, so the run ends: {its}") from error
        raise
