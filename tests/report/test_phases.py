"""Where the time of a run goes: phases add up, and one within another interrupts it."""

import numpy as np
import pytest

from hf_unlearn.report import phases
from hf_unlearn.report.phases import PhaseClock, phases_line, phases_table
from hf_unlearn.report.results import Results


@pytest.fixture
def now(monkeypatch) -> list[float]:
    """The time that the clock reads; add to it to let it pass."""
    now = [0.0]
    monkeypatch.setattr(phases.time, "perf_counter", lambda: now[0])
    return now


def test_no_second_is_counted_twice(now):
    clock = PhaseClock()
    now[0] += 100
    with clock.phase("unlearning"):
        now[0] += 3
        with clock.phase("checks"):
            now[0] += 5
        now[0] += 2
    now[0] += 100
    with pytest.raises(ZeroDivisionError), clock.phase("checks"):
        now[0] += 1
        raise ZeroDivisionError
    assert {name: phase["seconds"] for name, phase in clock.phases.items()} == {
        "unlearning": 5.0,
        "checks": 6.0,
    }


def test_the_calls_of_a_method_are_a_phase(now):
    class Trainer:
        def evaluate(self, seconds, twice=False):
            now[0] += seconds
            return seconds

    trainer, clock = Trainer(), PhaseClock()
    with clock.phase("unlearning"), clock.calls(trainer, "evaluate", "checks"):
        assert trainer.evaluate(4, twice=True) == 4
    trainer.evaluate(10)
    assert clock.phases["checks"]["seconds"] == 4 and clock.phases["unlearning"]["seconds"] == 0


def test_the_memory_of_each_phase_is_its_own():
    if not phases.CLEAR.exists():
        pytest.skip("only Linux knows the peak of a phase")
    clock, size = PhaseClock(), 64 * 2**20
    for name, held in (("small", 0), ("large", size), ("small again", 0)):
        with clock.phase(name):
            np.ones(held, dtype=np.uint8)
    peaks = {name: phase["memory_mb"] for name, phase in clock.phases.items()}
    assert peaks["large"] - peaks["small"] > 50 and peaks["large"] - peaks["small again"] > 50


def test_phases_are_told_in_a_line_and_a_table():
    phase_values = {
        "shadow_models": {"seconds": 1.25, "memory_mb": 10.0},
        "checks": {"seconds": 2.0, "memory_mb": 30.0, "device_memory_mb": 7.0},
    }
    line = "seconds: shadow models 1.2, checks 2.0; together 3.2; peak memory 30 MiB (checks)"
    assert phases_line(phase_values) == line
    assert phases_table(Results(phases=phase_values))[1:] == [
        ["shadow models", "1.2", "10.0", "-"],
        ["checks", "2.0", "30.0", "7.0"],
    ]
    assert phases_table(Results()) == []
