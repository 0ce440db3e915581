"""The card says what was done and how well, and does not name the forgotten speaker."""

from types import SimpleNamespace

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

from hf_unlearn.hub.model_card import build_card, write_card
from hf_unlearn.privacy.redaction import pseudonym, salt_of
from hf_unlearn.report.audit_ranking import deciding_doors
from hf_unlearn.report.environment import emissions
from hf_unlearn.report.results import Results
from tests.support.run_results import RESULTS, SALT


def card(results=RESULTS, **options):
    options = {
        "base_model": "openai/whisper-tiny",
        "datasets": ["openslr/librispeech_asr"],
        "salt": SALT,
    } | options
    return build_card(Results.from_dict(results), **options)


def test_metadata_that_the_hub_reads():
    data = card(language="en", license="apache-2.0", model_name="small").data
    assert (data.library_name, data.base_model, data.base_model_relation) == (
        "transformers",
        "openai/whisper-tiny",
        "finetune",
    )
    assert {"unlearning", "machine-unlearning", "orthograd", "automatic-speech-recognition"} <= set(
        data.tags
    )
    assert (data.language, data.license, data.datasets) == (
        "en",
        "apache-2.0",
        ["openslr/librispeech_asr"],
    )
    values = {
        (result.dataset_split, result.metric_type): result.metric_value
        for result in data.eval_results
    }
    assert (
        values[("test", "wer")] == pytest.approx(12.35, abs=0.011)
        and values[("forget", "cer")] == 47.5
    )


def test_text_says_what_users_need():
    text = card(plot="history.png").text
    for said in (
        "2 training utterances",
        "48 utterances",
        "2 other speakers",
        "`alpha=0.9`",
        "step 40",
        "forget_wer >= 90",
        "Seed 3",
        "torch 2.10890",
        "no certificate",
        "2503.02312",
        "2501.04697",
        "95.0 [94.0, 97.0]",
        "60.0 [59.0, 62.0]",
        "](history.png)",
        "--learning_rate 1e-4",
    ):
        assert said in text, said


def test_an_aborted_run_says_which_model_this_is():
    stopping = {
        "reason": "aborted",
        "step": 4,
        "rule": None,
        "abort_rule": "test_wer > 20",
        "restored_step": 2,
    }
    assert (
        "aborted; abort rule `test_wer > 20`. The model is that of step 2."
        in card({**RESULTS, "stopping": stopping}).text
    )
    original = card({**RESULTS, "stopping": {**stopping, "restored_step": 0}}).text
    assert "step 0: **the original, which has forgotten nothing**." in original


def test_without_a_retrained_model_the_card_says_so():
    text = card({**RESULTS, "retrained": None}).text
    assert "not measured here" in text and "60.0" not in text


def test_overshooting_is_said_beside_what_an_audit_says():
    doors = {"loss": {"meaning": "", "unit": "AUC (%)", "unlearned": 55, "original": 90}}
    doors["loss"] |= {"retrained": 50, "forgotten": 35, "gap": 5, "low": -9, "high": 17}
    text = card({**RESULTS, "audit": {"doors": doors, **deciding_doors(doors)}}).text
    first = text.split("## Results")[1].strip().split("\n")[0]
    assert first.startswith("**Worst door: loss") and "**forget overshot: WER (%) 95.0" in first


def test_local_folders_stay_out_of_the_metadata(tmp_path):
    data = card(base_model=str(tmp_path), datasets=["/data/speech"]).data
    assert not {"base_model", "base_model_relation", "datasets"} & set(data.to_dict())
    assert data.eval_results[0].dataset_type == "audiofolder"


def test_folders_of_another_machine_are_no_ids_of_the_hub(tmp_path):
    card_fields = {
        "base_model": "out/original",
        "datasets": ["out/speech"],
        "local": ["out/original", "out/speech"],
    }
    write_card(tmp_path, Results.from_dict({**RESULTS, "card": card_fields}), SALT)
    data = ModelCard.load(tmp_path / "README.md").data
    assert not {"base_model", "base_model_relation", "datasets"} & set(data.to_dict())
    assert not (tmp_path / ".eval_results").exists()


def test_license_data_and_language_are_inherited_from_the_base_models_card(tmp_path):
    (tmp_path / "README.md").write_text(
        "---\nlicense: mit\nlanguage: de\ndatasets: [me/speech]\n---\n"
    )
    data = card(base_model=str(tmp_path)).data
    assert (data.license, data.language, data.datasets) == (
        "mit",
        "de",
        ["openslr/librispeech_asr", "me/speech"],
    )
    assert card(base_model=str(tmp_path), license="apache-2.0").data.license == "apache-2.0"


@pytest.mark.parametrize("word", ["no", "on", "1e5", "2024-01-01", "010"])
def test_the_data_sets_and_language_of_a_base_models_card_are_read_as_written(tmp_path, word):
    """Norwegian is no, and stays it."""
    (tmp_path / "README.md").write_text(
        f"---\nlicense: mit\nlanguage: {word}\ndatasets:\n- me/{word}\n---\n"
    )
    write_card(
        tmp_path, Results.from_dict({**RESULTS, "card": {"base_model": str(tmp_path)}}), SALT
    )
    data = ModelCard.load(tmp_path / "README.md").data
    assert data.datasets[-1] == f"me/{word}"
    # The others are not language codes.
    assert data.language == (word if word in ("no", "on") else None)


def test_an_adapter_is_called_one():
    adapter = {**RESULTS, "config": {**RESULTS["config"], "lora_r": 8}}
    data = card(adapter).data
    assert (data.library_name, data.base_model_relation) == ("peft", "adapter")
    assert card({**adapter, "merged": True}).data.base_model_relation == "finetune"


def test_attacks_stand_beside_their_targets():
    attacks = {"unlearned": {"loss_auc": 0.61}, "retrained": {"loss_auc": 0.52}}
    with_target = card({**RESULTS, "attacks": attacks}).text
    assert "| loss_auc          | as retrained |      0.61 |      0.52 |" in with_target
    assert "0.5 is a coin toss" in with_target
    alone = card({**RESULTS, "attacks": {"unlearned": {"loss_auc": 0.61}}, "retrained": None}).text
    assert "| loss_auc          | 0.5    |      0.61 |" in alone


def test_emissions_are_told_where_they_were_measured(tmp_path):
    # kg, one row for each run
    (tmp_path / "emissions.csv").write_text("timestamp,emissions\n1,0.5\n2,0.0125\n")
    measured = SimpleNamespace(output_dir=tmp_path, report_to=["codecarbon"])
    assert emissions(measured) == 12.5
    assert (
        emissions(SimpleNamespace(output_dir=tmp_path / "none", report_to=["codecarbon"])) is None
    )
    # of an earlier run
    assert emissions(SimpleNamespace(output_dir=tmp_path, report_to=["wandb"])) is None
    assert card({**RESULTS, "emissions_g": 12.5}).data.co2_eq_emissions["emissions"] == 12.5


def test_a_card_has_no_path_of_the_machine():
    text = str(
        card(
            {
                **RESULTS,
                "command": "python /home/me/unlearn.py --x ~/data/x.yaml https://hub.co/a/b",
                "y": 1,
            }
        )
    )
    assert "/home/me" not in text and "python unlearn.py --x x.yaml https://hub.co/a/b" in text


def test_a_card_is_written_with_its_evaluations_and_again_the_same(tmp_path):
    card_fields = {"datasets": ["openslr/librispeech_asr"], "language": "en"}
    results = Results.from_dict({**RESULTS, "card": card_fields})
    first = str(write_card(tmp_path, results, salt_of(tmp_path)))
    assert (
        (tmp_path / "README.md").read_text()
        == first
        == str(write_card(tmp_path, results, salt_of(tmp_path)))
    )
    entries = parse_eval_result_entries(
        yaml.safe_load((tmp_path / ".eval_results/unlearning.yaml").read_text())
    )
    assert {(one.task_id, one.value) for one in entries} >= {
        ("forget_wer", 95.0),
        ("test_cer", 6.17),
    }
    assert (tmp_path / ".salt").stat().st_mode & 0o077 == 0


def test_card_survives_the_hubs_yaml():
    text = str(card())
    header = yaml.safe_load(text.split("---")[1])
    assert header["model-index"][0]["results"]


def test_card_names_nobody():
    text = str(
        card(model_name="whisper-without-1089", plot="plots/1089.png", base_model="me/spk1089")
    )
    text = text.replace("2.10890", "").replace("a1089b", "")
    assert "1089" not in text and "134686" not in text
    assert pseudonym("1089", SALT) in text


def test_card_names_the_speaker_only_when_told_to():
    text = str(card(name_forgotten=True))
    assert "`1089`" in text and "pseudonym" not in text


def test_salt_is_fresh_unless_given():
    first, second = (str(card(salt=None)) for _ in range(2))
    assert first != second and str(card()) == str(card())
