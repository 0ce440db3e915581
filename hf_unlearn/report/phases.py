"""`PhaseClock`: the time and memory that each phase of a run takes."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from .results import Results

try:
    import resource
except ImportError:
    # Windows has no such module.
    resource = None

MEBIBYTE = 2**20
# Writing 5 to the first file sets the process's peak, VmHWM in the second, to what it uses now.
CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


class PhaseClock:
    """Adds up the seconds and the peak memory of a run's phases.

    A phase within another one interrupts it, so that no second is counted twice. Memory is that of
    this process. Only Linux can measure the peak of a phase; on other systems it is the peak of the
    run so far. A GPU's memory is what torch has allocated on the current device.

    Attributes:
        phases: {name: {"seconds", "memory_mb", and with a GPU "device_memory_mb"}}, in the order in
            which the phases began.
    """

    def __init__(self) -> None:
        self.phases: dict[str, dict[str, float]] = {}
        self._open: list[str] = []
        self._since = time.perf_counter()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts the time and memory of the block as the phase `name`."""
        self._count()
        self._open.append(name)
        self.phases.setdefault(name, {"seconds": 0.0})
        try:
            yield
        finally:
            self._count()
            self._open.pop()

    @contextlib.contextmanager
    def calls(self, owner: object, method: str, name: str) -> Iterator[None]:
        """Counts the calls of an object's method within the block as the phase `name`."""
        whole = getattr(owner, method)

        def counted(*arguments: Any, **keywords: Any) -> Any:
            with self.phase(name):
                return whole(*arguments, **keywords)

        setattr(owner, method, counted)
        try:
            yield
        finally:
            delattr(owner, method)

    def _count(self) -> None:
        """Adds the time since the last change, and the peak memory, to the phase that was open."""
        now, memory = time.perf_counter(), _peak_memory()
        if self._open:
            phase = self.phases[self._open[-1]]
            phase["seconds"] += now - self._since
            for key, value in memory.items():
                phase[key] = max(phase.get(key, 0.0), value)
        self._since = now


def _peak_memory() -> dict[str, float]:
    """The peaks since the last call, in MiB."""
    peaks = {}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        peaks["device_memory_mb"] = torch.cuda.max_memory_allocated() / MEBIBYTE
        torch.cuda.reset_peak_memory_stats()
    try:
        (line,) = [row for row in STATUS.read_text().splitlines() if row.startswith("VmHWM")]
        CLEAR.write_text("5")
        return {"memory_mb": int(line.split()[1]) / 1024, **peaks}
    except (OSError, ValueError):
        if resource is not None:
            peaks["memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return peaks


def phases_line(phases: Mapping[str, Mapping[str, float]]) -> str:
    """The phases in one line, as a run prints them."""
    if not phases:
        return "seconds: not counted"
    parts = [f"{name.replace('_', ' ')} {phase['seconds']:.1f}" for name, phase in phases.items()]
    total = sum(phase["seconds"] for phase in phases.values())
    line = f"seconds: {', '.join(parts)}; together {total:.1f}"
    measured = {n: phase["memory_mb"] for n, phase in phases.items() if "memory_mb" in phase}
    if not measured:
        return line
    largest = max(measured, key=measured.get)
    return f"{line}; peak memory {measured[largest]:.0f} MiB ({largest.replace('_', ' ')})"


def phases_table(results: Results) -> list[list[str]]:
    """The phases of a run as rows of cells, for its report; [] if they are unknown."""
    phases = results.phases
    if not phases:
        return []
    columns = {
        "seconds": "Seconds",
        "memory_mb": "Peak memory (MiB)",
        "device_memory_mb": "Peak on the GPU (MiB)",
    }
    shown = [key for key in columns if any(key in phase for phase in phases.values())]
    rows = [
        [name.replace("_", " "), *(f"{phase[k]:.1f}" if k in phase else "-" for k in shown)]
        for name, phase in phases.items()
    ]
    return [["Phase", *(columns[key] for key in shown)], *rows]
