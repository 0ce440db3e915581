"""The ledger of speakers: known again by salted ids, published without names, honest where the data
or the salt is missing."""

import json
import logging
import shutil
from pathlib import Path

import pytest

from hf_unlearn.experiments.history.earlier import find_earlier
from hf_unlearn.experiments.speech import ctc
from hf_unlearn.hub.staging import stage
from hf_unlearn.privacy.carried_salt import carry_salt
from hf_unlearn.privacy.redaction import pseudonym, salt_of
from hf_unlearn.report.ledger import read_ledger
from tests.recipes import recognisers
from tests.recipes.recognisers import flags
from tests.support.tiny_speech import write_noise

SPEAKERS = ("abe", "bert", "carl")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_noise(
        tmp_path_factory.mktemp("speech") / "data",
        (
            (f"{speaker}{take}.wav", speaker, "One two.", "test" if take == 2 else "train")
            for speaker in SPEAKERS
            for take in range(3)
        ),
    )


@pytest.fixture(scope="module")
def first(data, tmp_path_factory) -> Path:
    """The output of a request to forget abe."""
    folder = tmp_path_factory.mktemp("requests")
    # A pseudonym by a random salt may spell "abe".
    carry_salt("salt", folder / "first")
    model = recognisers.saved(recognisers.wavlm, folder / "model")
    forget(data, folder / "first", model, "abe")
    return folder / "first"


def forget(data: Path, out: Path, model: Path, speaker: str, **changes) -> dict:
    options = {"attacks": "false", "forget_speakers": speaker, "model": model, **changes}
    ctc.main(flags(data, out, **options))
    return json.loads((out / "results.json").read_text())


def test_a_speaker_is_known_again_by_the_salted_id_and_is_not_published(data, first, tmp_path):
    # Without the names in results.json, only the ledger and its salt are left.
    earlier = shutil.copytree(first, tmp_path / "earlier")
    (earlier / "results.json").unlink()
    results = forget(
        data,
        tmp_path / "second",
        earlier,
        "bert",
        stop_when="earlier_1_loss >= 1000",
        abort_when="earlier_loss < -1",
    )
    assert results["data"]["speakers"]["earlier_1"] == ["abe"]
    assert results["forgotten_before"] == {"forget_speakers": ["abe"]}
    salt = salt_of(tmp_path / "second")
    assert salt == salt_of(first) == "salt"
    ledger = read_ledger(tmp_path / "second" / "forget_ledger.json")
    assert [entry["ids"][0][:8] for entry in ledger] == [
        pseudonym(name, salt) for name in ("abe", "bert")
    ]
    # Letters of a digest may spell a name.
    ledger[1]["weights_before"] = f"0abe1{ledger[1]['weights_before'][5:]}"
    (tmp_path / "second" / "forget_ledger.json").write_text(json.dumps({"requests": ledger}))
    # The card is written anew from the changed ledger.
    (tmp_path / "second" / "README.md").unlink()
    (tmp_path / "staged").mkdir()
    stage(tmp_path / "second", tmp_path / "staged", "me/quiet", salt)
    assert (tmp_path / "staged" / "forget_ledger.json").exists()
    card = (tmp_path / "staged" / "README.md").read_text()
    assert f"speaker {pseudonym('abe', salt)} (2 samples)" in card and "WER (%)" in card
    assert "Request 2 did not start from the weights" in card
    for path in tmp_path.glob("staged/*.json"):
        assert "bert" not in path.read_text(), path


def test_without_the_salt_or_the_data_a_request_is_unverified(data, first, tmp_path, caplog):
    earlier = shutil.copytree(first, tmp_path / "earlier")
    (earlier / ".salt").unlink()
    with caplog.at_level(logging.WARNING):
        requests = find_earlier(str(earlier), str(tmp_path / "out"))
    assert requests.entries and not requests.requests_of_ledger() and requests.salt is None
    assert "The salt of request 1 is neither in" in caplog.text
    # The salt may also be put into the new output folder.
    (tmp_path / "out").mkdir()
    shutil.copyfile(first / ".salt", tmp_path / "out" / ".salt")
    (request,) = find_earlier(str(earlier), str(tmp_path / "out")).requests_of_ledger()
    assert request.knows("abe") and not request.knows("bert")
    others = shutil.copytree(data, tmp_path / "data")
    table = (others / "metadata.csv").read_text().splitlines()
    (others / "metadata.csv").write_text("\n".join(row for row in table if "abe" not in row))
    second = forget(others, tmp_path / "second", first, "bert")
    assert not any(split.startswith("earlier") for split in second["unlearned"])
    ledger = read_ledger(tmp_path / "second" / "forget_ledger.json")
    assert ledger[1]["earlier"] == {"1": "unverified"}
    assert "unverified |" in (tmp_path / "second" / "README.md").read_text()


def test_an_earlier_speaker_is_not_retained_but_measured(data, first, tmp_path, capsys):
    with pytest.raises(ValueError, match="already forgotten by an earlier request: abe"):
        forget(data, tmp_path, first, "bert", retain_speakers="abe")
    # The speakers to retain do not bound who is measured again.
    options = {"model": first, "forget_speakers": "bert", "retain_speakers": "carl"}
    ctc.main(flags(data, tmp_path / "out", **options, dry_run="true"))
    assert "'earlier_1': 2" in capsys.readouterr().out
    with pytest.raises(ValueError, match="this data has no samples of earlier requests"):
        forget(data, tmp_path / "out", first, "abe", abort_when="earlier_wer < 30")


def test_changed_weights_and_a_broken_ledger_are_told(data, first, tmp_path, caplog):
    changed = shutil.copytree(first, tmp_path / "changed")
    ledger = json.loads((changed / "forget_ledger.json").read_text())
    ledger["requests"][0]["weights_after"] = "0" * 64
    (changed / "forget_ledger.json").write_text(json.dumps(ledger))
    with caplog.at_level(logging.WARNING):
        forget(data, tmp_path / "second", changed, "bert")
    assert caplog.text.count("are not those that its forget_ledger.json ends with (request 1)") == 1
    (changed / "forget_ledger.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read as a ledger"):
        forget(data, tmp_path / "third", changed, "bert")
