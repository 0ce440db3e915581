"""Settings and fixtures for all tests: one thread, no network, a fixed seed, less garbage
collection, and a local Hub."""

import gc
import os
import time

# The models are tiny and there is a process for each core, so more threads would only wait for each
# other. Libraries read these variables when they are imported, and child processes inherit them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Otherwise tests that look for a model's card would wait for a Hub that cannot be reached.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import huggingface_hub  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

# Without a GPU, Triton interprets its kernels. It reads this variable when transformers imports it,
# so it must be set before.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from transformers import set_seed  # noqa: E402

from tests.support.hub_server import TOKEN, running  # noqa: E402


@pytest.fixture(autouse=True)
def fixed_seed():
    set_seed(0)


@pytest.fixture(autouse=True, scope="module")
def garbage_collection_skips_imports():
    """Trainer collects garbage when training begins. Searching all imported objects would take
    three quarters of the time of a tiny run."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def warnings_of(monkeypatch):
    """Given modules, the list of what their loggers warn of from then on."""

    def collected(*modules) -> list[str]:
        messages = []
        for module in modules:
            monkeypatch.setattr(module.logger, "warning", messages.append)
        return messages

    return collected


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A server on this machine that huggingface_hub uses as the Hub, with short waiting times."""
    with running() as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        files = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", files)
        # The module's functions, which peft calls, have an endpoint of their own.
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", server.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub_cache"))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        sleep = time.sleep
        monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))
        huggingface_hub.close_session()
        yield server
        huggingface_hub.close_session()
