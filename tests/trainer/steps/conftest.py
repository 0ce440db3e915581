"""Fixtures of the tests of steps."""

import pytest

from hf_unlearn.trainer import randomness
from hf_unlearn.trainer.samples import sample_access


@pytest.fixture
def warned(warnings_of):
    """The warnings about per-sample computation and randomness."""
    return warnings_of(randomness, sample_access)
