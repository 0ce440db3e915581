"""Fixtures of the tests of steps."""

import pytest

from hf_unlearn.trainer import randomness
from hf_unlearn.trainer.samples import engine_choice


@pytest.fixture
def warned(warnings_of):
    """The warnings about per-sample computation and randomness."""
    return warnings_of(randomness, engine_choice)
