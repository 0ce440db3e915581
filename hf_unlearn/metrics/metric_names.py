"""Which entries of an evaluation are metrics."""

import math
from collections.abc import Container
from typing import Any, TypeGuard

# Entries of an evaluation that are not metrics.
NO_METRICS = {
    *("samples", "epoch", "runtime", "samples_per_second", "steps_per_second"),
    *("jit_compilation_time", "model_preparation_time"),
}
# Prefixes of what Trainer logs with skip_memory_metrics=False.
MEMORY = ("mem_", "init_mem_")


def is_metric(name: str, value: Any, among: Container[str]) -> bool:
    """Whether an entry of an evaluation is a numeric metric, not a time, count or interval end.

    Args:
        among: names of all entries of the evaluation.
    """
    stem, _, end = name.rpartition("_")
    if name in NO_METRICS or name.startswith(MEMORY) or end in ("low", "high") and stem in among:
        return False
    return isinstance(value, int | float) and not isinstance(value, bool)


def finite(value: float | None) -> TypeGuard[float]:
    """Whether there is a value and it is finite."""
    return value is not None and math.isfinite(value)
