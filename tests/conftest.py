"""What holds for every test."""

import gc
import os

import pytest
import torch

if (
    not torch.cuda.is_available()
):  # then Triton's kernels are interpreted; read when Triton is imported, by transformers
    os.environ.setdefault("TRITON_INTERPRET", "1")

from transformers import set_seed  # noqa: E402


@pytest.fixture(autouse=True)
def _seeded():
    set_seed(0)


@pytest.fixture(autouse=True, scope="module")
def _imports_are_not_searched_for_garbage():
    """Trainer collects garbage whenever training begins, and three quarters of a tiny run went into searching what has
    been imported."""
    gc.collect()
    gc.freeze()
