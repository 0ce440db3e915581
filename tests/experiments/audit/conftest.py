"""A finished run of an image recipe for audits, and a network that must not be used."""

import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import datasets
import huggingface_hub
import pytest

from hf_unlearn.experiments import unlearn
from hf_unlearn.experiments.audit import DOORS, Door, Finding, Subject, run_audit
from tests.recipes.noise import write_noise
from tests.recipes.shadow_recipe import shadow_recipe


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    images = write_noise(folder / "images", 10)
    unlearn(shadow_recipe(images, folder / "out", shadow_models=0, attacks=False))
    return folder / "out"


@pytest.fixture
def run(finished, tmp_path) -> Path:
    shutil.copytree(finished, tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def measured_doors(monkeypatch) -> Callable[..., list[str]]:
    """Leaves some doors to the audits of a test. Returns a list, to which each of them adds its
    name whenever it measures a model."""

    def leave(*names: str) -> list[str]:
        measured = []

        def counted(name: str) -> Door:
            def measure(subject: Subject) -> Finding:
                measured.append(name)
                return DOORS[name].measure(subject)

            return replace(DOORS[name], measure=measure)

        monkeypatch.setattr(run_audit, "DOORS", {name: counted(name) for name in names})
        return measured

    return leave


@pytest.fixture
def no_network(monkeypatch) -> Iterator[None]:
    """Fails the test if anything has tried to connect. Libraries are not told to stay offline."""
    attempts = []

    def refuse(*arguments, **keywords):
        attempts.append(arguments)
        raise OSError("there is no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    huggingface_hub.close_session()
    yield
    huggingface_hub.close_session()
    assert not attempts
