"""Nothing that a push sends names a forgotten person, wherever the name occurs.

What cannot be published is refused early.
"""

import base64
import json
import re
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import save_file
from transformers import TrainerCallback, WhisperForConditionalGeneration

from hf_unlearn.hub.model_card import write_card
from hf_unlearn.hub.upload import push_folder
from hf_unlearn.report.file_names import ARGUMENTS
from hf_unlearn.report.html_page import Report
from hf_unlearn.report.results import Results
from tests.hub.trained_models import SPEAKER, trained
from tests.support.hub_server import TOKEN
from tests.support.texts import bare, names_sent, sent
from tests.support.tiny import FORGET, make_trainer, tiny_whisper, utterances

NAME = "José Núñez"
SPELLINGS = [
    "Jose\u0301_Nu\u0301n\u0303ez",
    "joseNunez",
    "jos\\u00e9-n\\u00fa\\u00f1ez",
]


@pytest.mark.parametrize("spelled", SPELLINGS)
def test_a_name_in_arguments_and_splits_does_not_leave(hub, tmp_path, spelled):
    trainer = trained(
        tmp_path,
        hide_names=[NAME],
        run_name=spelled,
        stop_when="forget_loss >= 1000",
        check_steps=1,
        hub_model_id="tester/quiet",
        eval_dataset={"forget": FORGET, spelled: utterances(3, seed=5)},
    )
    trainer.evaluate()
    trainer.push_to_hub(
        dataset=f"me/{re.sub('[^a-zA-Z]', '', spelled)}", tags=[f"of-{spelled}"], language="es"
    )
    assert hub.files["tester/quiet"].keys() > {"results.json", "training_args.json"}
    assert not names_sent(hub, NAME) and "eval" in sent(hub)


class Notes(TrainerCallback):
    """A user's callback that writes into the checkpoints."""

    def on_save(self, args, state, control, **_):
        for name in ("notes.txt", "speakers.csv", f"{NAME}.log"):
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / name).write_text(NAME)


@pytest.mark.parametrize("strategy", ["checkpoint", "all_checkpoints"])
def test_a_pushed_checkpoint_has_what_resuming_needs_and_no_more(hub, tmp_path, strategy):
    data = {"forget": FORGET, NAME: utterances(3, seed=5)}
    trainer = make_trainer(
        tiny_whisper(),
        tmp_path / "model",
        optimizer=False,
        learning_rate=1e-3,
        max_steps=2,
        save_strategy="steps",
        save_steps=1,
        push_to_hub=True,
        hub_strategy=strategy,
        hub_always_push=True,
        hide_names=[NAME],
        run_name=NAME,
        eval_strategy="steps",
        eval_steps=1,
        arguments={"callbacks": [Notes()], "eval_dataset": data},
    )
    (tmp_path / "model" / "checkpoint-1").mkdir(parents=True)
    (tmp_path / "model" / "checkpoint-1" / "notes.txt").write_text(NAME)
    trainer.train()
    trainer.push_in_progress.wait_until_done()
    files = hub.files["tester/model"]
    inside = {
        path.split("/")[1]
        for path in files
        if path.startswith(("last-checkpoint/", "checkpoint-1/"))
    }
    assert {
        "optimizer.pt",
        "scheduler.pt",
        "rng_state.pth",
        "trainer_state.json",
        "model.safetensors",
    } <= inside
    assert not any(name.endswith((".txt", ".csv", ".log")) for name in inside)
    assert not names_sent(hub, NAME)


def test_a_resumed_run_hides_whom_it_has_hidden_before(hub, tmp_path):
    options = {
        "optimizer": False,
        "learning_rate": 1e-3,
        "save_strategy": "steps",
        "save_steps": 1,
        "run_name": NAME,
    }
    make_trainer(
        tiny_whisper(), tmp_path / "model", max_steps=1, hide_names=[NAME], **options
    ).train()
    again = make_trainer(
        tiny_whisper(), tmp_path / "model", max_steps=2, hide_names=["somebody else"], **options
    )
    again.train(resume_from_checkpoint=True)
    assert set(again.args.hide_names) == {NAME, "somebody else"}
    again.push_to_hub(finetuned_from=f"me/of-{bare(NAME)}")
    assert not names_sent(hub, NAME) and hub.commits


def test_names_in_commit_message_and_revision_are_refused(hub, finished):
    for told in ({"message": f"without {SPEAKER}"}, {"revision": "no_Anna_Karenina"}):
        with pytest.raises(ValueError, match="names a forgotten person"):
            push_folder(finished, "tester/quiet", **told)
    assert not hub.received


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda folder: save_file(
                {"heads.AnnaKarenina.weight": torch.ones(1)}, folder / "model.safetensors"
            ),
            "contains 'heads.Anna",
        ),
        (
            lambda folder: (folder / "chat_template.jinja").write_text("Say: anna%2Dkarenina"),
            "chat_template.jinja contains",
        ),
        (lambda folder: (folder / "more.json").write_text("{"), "more.json is not valid JSON"),
    ],
    ids=["tensors", "template", "no JSON"],
)
def test_names_in_the_models_files_are_refused(hub, finished, spoil, message):
    spoil(finished)
    with pytest.raises(ValueError, match=message):
        push_folder(finished, "tester/quiet")
    assert not hub.received


def test_a_data_set_named_after_somebody_is_left_out(finished):
    results = Results.read(finished)
    results.card = {"datasets": ["me/AnnaKarenina", "me/voices"]}
    card = write_card(finished, results, "salt")
    assert card.data.datasets == ["me/voices"]
    assert "me/voices" in (finished / ".eval_results/unlearning.yaml").read_text()
    entries = (finished / ".eval_results/unlearning.yaml").read_text()
    assert "karenina" not in entries.lower() + str(card).lower()


def test_redaction_leaves_the_audio_of_a_report_alone():
    """Redaction of speaker 6 would cut the 6 out of base64."""
    sound = bytes(range(256)) * 8
    row = {"id": "6-1", "reference": "a", "models": {"original": "a"}}
    results = Results(config={"forget_speakers": ["6"]}, transcripts={"forget": [row]})
    (clean,) = Report(results, "salt", {"6-1": sound}).transcripts
    assert base64.b64decode(clean["sound"].split(",")[1]) == sound and clean["id"] != "6-1"


# ---- early ---------------------------------------------------------------------------------------


def test_an_adapter_of_a_local_base_is_refused_before_there_is_a_repository(hub, tmp_path):
    tiny_whisper().save_pretrained(tmp_path / "base")
    for model in (
        WhisperForConditionalGeneration.from_pretrained(tmp_path / "base"),
        tiny_whisper(),
    ):
        with pytest.raises(ValueError, match="is not on the Hub.*merge=True"):
            make_trainer(
                model,
                tmp_path / "model",
                optimizer=False,
                push_to_hub=True,
                arguments={"peft_config": LoraConfig(r=2, target_modules=["q_proj"])},
            )
    assert not hub.received


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor"),
        ({"hub_revision": "without-anna_karenina"}, "the hub_revision"),
        ({"hub_model_id": "tester/AnnaKarenina"}, "the repository's name"),
    ],
)
def test_a_trainer_that_is_refused_at_construction_leaves_no_repository(
    hub, tmp_path, options, message
):
    with pytest.raises(ValueError, match=message):
        make_trainer(
            tiny_whisper(), tmp_path / "model", push_to_hub=True, hide_names=[SPEAKER], **options
        )
    assert not hub.received


def test_a_configuration_that_names_somebody_is_refused_before_the_training(hub, tmp_path):
    model = tiny_whisper()
    model.config.trained_on = "Anna Karenina"
    with pytest.raises(ValueError, match="config.json contains 'Anna Karenina'"):
        make_trainer(model, tmp_path / "model", push_to_hub=True, hide_names=[SPEAKER])
    assert not hub.received


def test_a_push_that_is_refused_leaves_no_repository(hub, tmp_path):
    trainer = trained(tmp_path, hide_names=[SPEAKER], hub_token=TOKEN)
    (tmp_path / "model" / "notes.json").write_text(json.dumps({"who": SPEAKER.upper()}))
    with pytest.raises(ValueError, match="notes.json contains"):
        trainer.push_to_hub()
    assert not hub.received and (tmp_path / "model" / ARGUMENTS).is_file()
    (tmp_path / "model" / "notes.json").unlink()
    trainer.push_to_hub()
    assert "model.safetensors" in hub.files["tester/model"]


def test_a_folder_without_a_run_is_refused(hub, tmp_path):
    with pytest.raises(ValueError, match="there is no .*results.json: give the output_dir"):
        push_folder(tmp_path / "nowhere", "tester/quiet")


@pytest.mark.parametrize("content", ["[]", "{}", '{"evaluated": {}}'])
def test_other_json_is_refused(hub, finished, content):
    (finished / "results.json").write_text(content)
    with pytest.raises(ValueError, match="results.json does not belong to a run"):
        push_folder(finished, "tester/quiet")
