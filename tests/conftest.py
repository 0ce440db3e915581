"""What holds for every test."""

import pytest
from transformers import set_seed


@pytest.fixture(autouse=True)
def _seeded():
    set_seed(0)
