"""What holds for every test."""

import gc
import os
import time

import huggingface_hub
import pytest
import torch

if (
    not torch.cuda.is_available()
):  # then Triton's kernels are interpreted; read when Triton is imported, by transformers
    os.environ.setdefault("TRITON_INTERPRET", "1")

from transformers import set_seed  # noqa: E402

from tests.hub_server import TOKEN, running  # noqa: E402


@pytest.fixture(autouse=True)
def _seeded():
    set_seed(0)


@pytest.fixture(autouse=True, scope="module")
def _imports_are_not_searched_for_garbage():
    """Trainer collects garbage whenever training begins, and three quarters of a tiny run went into
    searching what has been imported."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub on this machine, which huggingface_hub takes for the Hub, and does not wait long
    for."""
    with running() as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        files = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", files)
        # of its functions, as peft calls them
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", server.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub_cache"))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        slept = time.sleep
        monkeypatch.setattr(time, "sleep", lambda seconds: slept(min(seconds, 0.01)))
        huggingface_hub.close_session()
        yield server
        huggingface_hub.close_session()
