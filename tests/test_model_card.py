"""The card says what was done and how well; and neither it nor redacted results name the forgotten speaker."""

import copy
import hashlib
import json

import pytest
import yaml

from hf_unlearn.model_card import build_card
from hf_unlearn.redaction import pseudonym, redact

SALT = "pepper"


def metrics(wer):
    return {"samples": 9, "loss": 0.5, "wer": wer, "wer_low": wer - 1, "wer_high": wer + 2, "cer": wer / 2}


RESULTS = {
    "config": {
        "method": "orthograd",
        "alpha": 0.9,
        "output_dir": "out/forget-1089",
        "forget_speakers": ["1089"],
        "retain_speakers": ["19", "26"],
        "per_device_retain_batch_size": 24,
    },
    "data": {
        "seed": 3,
        "utterances": {"forget": 2, "retain": 48, "test": 20},
        "speakers": {"forget": ["1089"], "retain": ["19", "26"], "test": ["19", "26"]},
        "forget_ids": ["1089-134686-0001", "1089-134691-0002"],
        "retain_ids": ["19-198-0001", "26-495-0002"],
    },
    "seed": 3,
    "environment": {
        "python": "3.11", "packages": {"torch": "2.10890"}, "device": "CPU", "cpu_threads": 2, "platform": "Linux",
        "date": "2026-01-01", "commit": "a1089b",
    },
    "original": {"forget": metrics(1.0), "test": metrics(10.0)},
    "unlearned": {"forget": metrics(95.0), "test": metrics(12.345)},
    "retrained": {"forget": metrics(60.0), "test": metrics(9.0)},
    "stopping": {
        "reason": "target reached", "step": 40, "rule": "forget_wer >= 90", "abort_rule": None, "value": 95.0,
    },
    "history": [{"step": 10, "check_forget_wer": 50.0}],
    "command": "unlearn.py x.yaml --forget_speakers 1089 --dataset /data/1089/134686 --learning_rate 1e-4",
}  # fmt: skip


def card(results=RESULTS, **options):
    options = {"base_model": "openai/whisper-tiny", "datasets": ["openslr/librispeech_asr"], "salt": SALT} | options
    return build_card(results, **options)


def test_metadata_that_the_hub_reads():
    data = card(language="en", license="apache-2.0", model_name="small").data
    assert (data.library_name, data.base_model, data.base_model_relation) == (
        "transformers", "openai/whisper-tiny", "finetune",
    )  # fmt: skip
    assert {"unlearning", "machine-unlearning", "orthograd", "automatic-speech-recognition"} <= set(data.tags)
    assert (data.language, data.license, data.datasets) == ("en", "apache-2.0", ["openslr/librispeech_asr"])
    values = {(result.dataset_split, result.metric_type): result.metric_value for result in data.eval_results}
    assert values[("test", "wer")] == pytest.approx(12.35, abs=0.011) and values[("forget", "cer")] == 47.5


def test_text_says_what_users_need():
    text = card(plot="history.png").text
    for said in (
        "2 training utterances", "48 utterances", "2 other speakers", "`alpha=0.9`", "step 40", "forget_wer >= 90",
        "Seed 3", "torch 2.10890", "no certificate", "2503.02312", "2501.04697", "95.0 [94.0, 97.0]",
        "60.0 [59.0, 62.0]", "](history.png)", "--learning_rate 1e-4",
    ):  # fmt: skip
        assert said in text, said


def test_without_a_retrained_model_the_card_says_so():
    text = card({**RESULTS, "retrained": None}).text
    assert "not measured here" in text and "60.0" not in text


def test_local_folders_stay_out_of_the_metadata(tmp_path):
    data = card(base_model=str(tmp_path), datasets=["/data/speech"]).data
    assert not {"base_model", "base_model_relation", "datasets"} & set(data.to_dict())
    assert data.eval_results[0].dataset_type == "audiofolder"


def test_card_survives_the_hubs_yaml():
    text = str(card())
    header = yaml.safe_load(text.split("---")[1])
    assert header["model-index"][0]["results"]


def test_card_names_nobody():
    text = str(card(model_name="whisper-without-1089", plot="plots/1089.png", base_model="me/spk1089"))
    text = text.replace("2.10890", "").replace("a1089b", "")
    assert "1089" not in text and "134686" not in text
    assert pseudonym("1089", SALT) in text


def test_card_names_the_speaker_only_when_told_to():
    text = str(card(name_forgotten=True))
    assert "`1089`" in text and "pseudonym" not in text


def test_salt_is_fresh_unless_given():
    first, second = (str(card(salt=None)) for _ in range(2))
    assert first != second and str(card()) == str(card())


def test_pseudonym_is_the_salted_hash():
    assert pseudonym("1089", SALT) == hashlib.sha256(b"pepper1089").hexdigest()[:8]


def test_redacted_results_keep_everything_but_ids():
    before = copy.deepcopy(RESULTS)
    clean = redact(RESULTS, SALT)
    assert RESULTS == before
    for key in ("seed", "environment", "original", "unlearned", "retrained", "stopping", "history"):
        assert clean[key] == RESULTS[key]
    assert clean["data"]["utterances"] == RESULTS["data"]["utterances"]
    assert clean["config"]["forget_speakers"] == clean["data"]["speakers"]["forget"] == [pseudonym("1089", SALT)]
    assert len(set(clean["data"]["forget_ids"])) == 2
    assert clean["command"] == (
        f"unlearn.py x.yaml --forget_speakers {pseudonym('1089', SALT)} --dataset /data/{pseudonym('1089', SALT)} "
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


@pytest.mark.parametrize("speaker, innocent", [("1089", "21089"), ("6", "--lr 1e-6 --alpha 0.6"), ("ann", "channel")])
def test_what_is_no_mention_stays(speaker, innocent):
    assert redact({"config": {"forget_speakers": [speaker]}, "command": innocent}, SALT)["command"] == innocent


def test_ids_as_numbers_and_as_keys_are_hidden():
    clean = redact({"config": {"data": {"forget_speakers": 1089}}, "per_speaker": {"1089": {"wer": 1.0}}}, SALT)
    assert clean["config"]["data"]["forget_speakers"] == pseudonym("1089", SALT)
    assert list(clean["per_speaker"]) == [pseudonym("1089", SALT)]


def test_row_numbers_as_utterance_ids_leave_texts_alone():
    results = {"config": {"forget_speakers": ["ann"]}, "data": {"forget_ids": ["4", "5"]}, "command": "--steps 5"}
    assert redact(results, SALT)["command"] == "--steps 5"


def test_nobody_to_hide_is_an_error():
    with pytest.raises(ValueError, match="not known whom to hide"):
        redact({"config": {}, "data": {}}, SALT)
