"""The push of a finished run's folder names nobody, sends nothing else, and says why it fails."""

import itertools
import json
from pathlib import Path

import huggingface_hub
import pytest
import yaml
from huggingface_hub import ModelCard

from hf_unlearn.hub.upload import HubError, push_folder
from tests.hub.trained_models import SPEAKER, files_of
from tests.support.hub_server import TOKEN
from tests.support.texts import names_sent


def test_a_finished_run_names_nobody(hub, finished):
    push_folder(finished, "tester/quiet")
    files = files_of(hub, "tester/quiet")
    assert not names_sent(hub, SPEAKER, "boris", "/home/somebody")
    results = json.loads(files["results.json"])
    (pseudonym,) = results["config"]["data"]["forget_speakers"]
    # everything published about a run uses the same pseudonym
    assert pseudonym in files["README.md"].decode()
    assert results["unlearned"]["forget"]["wer"] == 81.25
    entries = yaml.safe_load(files[".eval_results/unlearning.yaml"])
    assert entries[0]["dataset"] == {"id": "openslr/librispeech_asr", "task_id": "forget_wer"}
    assert entries[0]["value"] == 81.25
    index = ModelCard(files["README.md"].decode()).data.eval_results
    assert [(one.metric_type, one.metric_value) for one in index] == [("wer", 81.25)]


def test_a_finished_run_names_them_on_request(hub, finished):
    push_folder(finished, "tester/loud", name_forgotten=True)
    assert SPEAKER.encode() in files_of(hub, "tester/loud")["README.md"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: "tester/without_anna_karenina", "the repository's name"),
        (
            lambda folder: (folder / "README.md").write_text(f"forgot {SPEAKER}") and None,
            "seems to name",
        ),
        (lambda folder: spoil_config(folder), "config.json contains 'anna-karenina'"),
        (
            lambda folder: (folder / "notes.json").write_text(f'"{TOKEN}"') and None,
            "notes.json holds the access token",
        ),
        (
            lambda folder: (folder / f"{SPEAKER}.png").write_bytes(b"") or None,
            "the file 'anna-karenina.png'",
        ),
        (lambda folder: "me/no such name", "Repo id must"),
        (lambda folder: (folder / "results.json").unlink(), "there is no .*results.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no weights"),
    ],
    ids=[
        "repository",
        "card",
        "configuration",
        "token",
        "picture",
        "no name",
        "no results",
        "no weights",
    ],
)
def test_a_folder_that_cannot_be_published_is_refused_before_anything_is_sent(
    hub, finished, spoil, message
):
    repo = spoil(finished) or "tester/quiet"
    with pytest.raises(ValueError, match=message):
        push_folder(finished, repo)
    assert not hub.received


def spoil_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["trained_on"] = SPEAKER
    (folder / "config.json").write_text(json.dumps(config))


def test_logs_and_other_files_of_the_user_are_not_uploaded(hub, finished):
    for name in (
        "log.txt",
        "report.html",
        "data.csv",
        "best_checked.safetensors",
        ".salt",
        "optimizer.pt",
    ):
        (finished / name).write_text(SPEAKER)
    push_folder(finished, "tester/quiet")
    assert set(files_of(hub, "tester/quiet")) == {
        "README.md",
        "results.json",
        "model.safetensors",
        "config.json",
        "generation_config.json",
        ".eval_results/unlearning.yaml",
    }


def test_an_edited_card_is_kept(hub, finished):
    (finished / "README.md").write_text("---\nlicense: mit\n---\nMy own words.\n")
    push_folder(finished, "tester/quiet")
    assert b"My own words" in files_of(hub, "tester/quiet")["README.md"]


@pytest.mark.parametrize(
    ("part", "statuses"),
    [
        ("preupload", [503, 429]),
        ("PUT /lfs/", [0, 500]),
        ("objects/batch", [503]),
    ],
)
def test_temporary_failures_are_retried(hub, finished, part, statuses):
    hub.failures[part] = statuses
    push_folder(finished, "tester/quiet")
    assert hub.count(part) == len(statuses) + 1 and len(hub.commits) == 1


@pytest.mark.parametrize(
    ("part", "statuses", "message"),
    [
        ("/", itertools.repeat(401), "hf auth login"),
        ("commit", [403], "may not write"),
        ("preupload", itertools.repeat(429), "wait a few minutes"),
        ("preupload", itertools.repeat(503), "failed repeatedly: push again later"),
        ("preupload", itertools.repeat(422), "refused this request: fix"),
        ("PUT /lfs/", itertools.repeat(0), "model.safetensors' to the Hub. If the reason"),
        ("PUT /lfs/", itertools.repeat(400), "model.safetensors' to the Hub. The Hub refused"),
    ],
    ids=["401", "403", "429", "503", "422", "broken upload", "refused upload"],
)
def test_lasting_failures_give_one_clear_message(hub, finished, part, statuses, message):
    hub.failures[part] = statuses
    with pytest.raises(HubError, match="could not push to tester/quiet") as error:
        push_folder(finished, "tester/quiet")
    assert (
        message in str(error.value)
        and "no new commit" in str(error.value)
        and "\n" not in str(error.value)
    )
    assert not hub.commits and TOKEN not in str(error.value)


def test_the_message_mentions_offline_mode(hub, finished, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    huggingface_hub.close_session()
    with pytest.raises(HubError, match="Unset HF_HUB_OFFLINE"):
        push_folder(finished, "tester/quiet")
