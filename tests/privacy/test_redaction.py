"""Redacted results keep everything but the ids of the forgotten speaker."""

import copy
import hashlib
import json

import pytest

from hf_unlearn.privacy.redaction import hide_tokens, pseudonym, redact, salt_of
from tests.support.run_results import RESULTS, SALT


def test_tokens_are_masked():
    command = (
        "python x.py --hub_token hf_abcdefghij --hub_token=secret --other_token secret --x hf_data"
    )
    assert (
        hide_tokens(command)
        == "python x.py --hub_token *** --hub_token=*** --other_token *** --x hf_data"
    )


def test_pseudonym_is_the_salted_hash():
    assert pseudonym("1089", SALT) == hashlib.sha256(b"pepper1089").hexdigest()[:8]


def test_redacted_results_keep_everything_but_ids():
    before = copy.deepcopy(RESULTS)
    clean = redact(RESULTS, SALT)
    assert RESULTS == before
    for key in ("seed", "environment", "original", "unlearned", "retrained", "stopping", "history"):
        assert clean[key] == RESULTS[key]
    assert clean["data"]["utterances"] == RESULTS["data"]["utterances"]
    assert (
        clean["config"]["forget_speakers"]
        == clean["data"]["speakers"]["forget"]
        == [pseudonym("1089", SALT)]
    )
    assert len(set(clean["data"]["forget_ids"])) == 2
    assert clean["command"] == (
        f"unlearn.py x.yaml --forget_speakers {pseudonym('1089', SALT)} --dataset "
        f"/data/{pseudonym('1089', SALT)} "
        "--learning_rate 1e-4"
    )


def test_retained_ids_do_not_give_the_speaker_away_by_elimination():
    text = json.dumps(redact(RESULTS, SALT)["data"])
    assert '"19"' not in text and "26-495" not in text


@pytest.mark.parametrize(
    "speaker, mention",
    [
        ("1089", "spk1089"),
        ("1089", "run_1089_a"),
        ("1089", "a/1089-134686-0001.flac"),
        ("george", "0_George_3.wav"),
        ("Jane Doe", "out/jane_doe/x"),
        ("en-us+f3", "voices/en-us+f3.wav"),
        ("6", "speaker 6"),
    ],
)
def test_every_spelling_of_a_mention_is_found(speaker, mention):
    clean = redact({"config": {"forget_speakers": [speaker]}, "command": mention, mention: 1}, SALT)
    assert pseudonym(speaker, SALT) in clean["command"]
    assert speaker.lower() not in clean["command"].lower().replace(pseudonym(speaker, SALT), "")


@pytest.mark.parametrize(
    "speaker, innocent", [("1089", "21089"), ("6", "--lr 1e-6 --alpha 0.6"), ("ann", "channel")]
)
def test_text_that_mentions_nobody_stays(speaker, innocent):
    assert (
        redact({"config": {"forget_speakers": [speaker]}, "command": innocent}, SALT)["command"]
        == innocent
    )


def test_keys_that_become_the_same_are_both_kept():
    clean = redact(
        {
            "config": {"forget_speakers": ["Jane Doe"]},
            "log": {"eval_jane_doe_wer": 1, "eval_jane_doe_loss": 2},
        },
        SALT,
    )
    hidden = f"eval_{pseudonym('Jane Doe', SALT)}"
    assert clean["log"] == {hidden: 1, f"{hidden}-2": 2}


def test_one_person_has_one_pseudonym_in_all_forms_of_unicode():
    composed, decomposed = "Jos\u00e9", "Jose\u0301"
    clean = redact(
        {
            "config": {"forget_speakers": [composed]},
            "speakers": [decomposed],
            "command": f"x {decomposed}",
        },
        SALT,
    )
    assert (
        clean["speakers"] == [pseudonym(composed, SALT)]
        and clean["command"] == f"x {pseudonym(composed, SALT)}"
    )


def test_an_empty_salt_is_made_anew(tmp_path):
    (tmp_path / ".salt").write_text("")
    assert len(salt_of(tmp_path)) == 32 == len((tmp_path / ".salt").read_text())
    assert (tmp_path / ".salt").stat().st_mode & 0o077 == 0


def test_ids_as_numbers_and_as_keys_are_hidden():
    clean = redact(
        {"config": {"data": {"forget_speakers": 1089}}, "per_speaker": {"1089": {"wer": 1.0}}}, SALT
    )
    assert clean["config"]["data"]["forget_speakers"] == pseudonym("1089", SALT)
    assert list(clean["per_speaker"]) == [pseudonym("1089", SALT)]


def test_row_numbers_as_utterance_ids_leave_texts_alone():
    results = {
        "config": {"forget_speakers": ["ann"]},
        "data": {"forget_ids": ["4", "5"]},
        "command": "--steps 5",
    }
    assert redact(results, SALT)["command"] == "--steps 5"


def test_nobody_to_hide_is_an_error():
    with pytest.raises(ValueError, match="not known whom to hide"):
        redact({"config": {}, "data": {}}, SALT)
