"""Fixtures of the tests of steps."""

import pytest

from hf_unlearn.trainer.samples import sample_access
from hf_unlearn.trainer.steps import randomness


@pytest.fixture
def warned(monkeypatch):
    """The warnings about per-sample computation and randomness."""
    messages = []
    for module in (randomness, sample_access):
        monkeypatch.setattr(module.logger, "warning", messages.append)
    return messages
