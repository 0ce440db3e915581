"""Fixtures of the recipes' tests."""

from pathlib import Path

import datasets
import pytest

from tests.recipes import recognisers
from tests.recipes.noise import write_noise


@pytest.fixture(scope="module")
def noise(tmp_path_factory) -> Path:
    """Ten training and ten test images of each of two classes."""
    return write_noise(tmp_path_factory.mktemp("images") / "noise", 10)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Speech of two speakers."""
    return recognisers.write_speech(tmp_path_factory.mktemp("speech") / "data")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """What datasets prepares is kept with the test."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
