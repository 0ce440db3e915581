"""What holds for every test."""

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
