"""A trainer pushes a complete model with its card, at the end and while it trains."""

import json

import pytest
import torch
import transformers
from huggingface_hub import ModelCard
from transformers import WhisperForConditionalGeneration

from hf_unlearn.trainer.checkpoints.start_weights import START
from hf_unlearn.trainer.publishing import pushes
from hf_unlearn.trainer.publishing.run_results import pipeline_of
from tests.hub.trained_models import SPEAKER, downloaded, files_of, trained
from tests.support.hub_server import TOKEN
from tests.support.texts import names_sent
from tests.support.tiny import make_trainer, tiny_whisper, utterances


def test_a_trainers_push_is_complete_and_loads_back(hub, tmp_path):
    trainer = trained(tmp_path, run_name=f"run of {SPEAKER}", hide_names=[SPEAKER], hub_token=TOKEN)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    done = trainer.push_to_hub()
    files = files_of(hub)
    assert {
        "model.safetensors",
        "config.json",
        "generation_config.json",
        "training_args.json",
        "results.json",
    } < set(files)
    assert "tester/model" in done.commit_url and hub.commits == ["End of training"]
    assert not any(path.endswith((".bin", ".pt", ".pkl")) for path in files)
    loaded = WhisperForConditionalGeneration.from_pretrained(downloaded(hub, tmp_path))
    assert all(torch.equal(value, before[name]) for name, value in loaded.state_dict().items())
    card = ModelCard(files["README.md"].decode())
    assert (
        card.data.pipeline_tag == "automatic-speech-recognition" and "orthograd" in card.data.tags
    )
    assert (
        "8 training samples" in card.text
        and "5 samples" in card.text
        and "not evaluated" in card.text
    )
    assert TOKEN.encode() not in b"\n".join(hub.received)
    assert not names_sent(hub, SPEAKER, TOKEN, str(tmp_path))


def test_the_card_of_a_trainer_has_what_was_evaluated(hub, tmp_path):
    splits = {"forget": utterances(3, seed=5), "retain": utterances(3, seed=5)}
    trainer = trained(tmp_path, eval_dataset=splits, method="scrub", method_kwargs={"msteps": 1})
    trainer.evaluate()
    trainer.push_to_hub(dataset="openslr/librispeech_asr", language="en", license="apache-2.0")
    results = json.loads(files_of(hub)["results.json"])
    assert set(results["unlearned"]) == {"forget", "retain"} and results["original"] is None
    assert results["unlearned"]["forget"]["loss"] == pytest.approx(
        trainer.state.log_history[-2]["eval_forget_loss"]
    )
    card = ModelCard(files_of(hub)["README.md"].decode())
    assert (card.data.language, card.data.license) == ("en", "apache-2.0")
    assert f"{results['unlearned']['forget']['loss']:.3f}" in card.text
    assert (
        "`method=scrub`, `ce_weight=0.99`, `kl_weight=0.001`, `temperature=4.0`, `msteps=1`, "
        "`per_device" in card.text
    )


@pytest.mark.parametrize("strategy", ["every_save", "checkpoint", "all_checkpoints"])
def test_hub_strategies_push_while_training(hub, tmp_path, strategy):
    trained(
        tmp_path,
        method="scrub",
        max_steps=2,
        save_strategy="steps",
        save_steps=1,
        push_to_hub=True,
        hub_strategy=strategy,
        hub_always_push=True,
        hide_names=[SPEAKER],
        run_name=SPEAKER,
    )
    files = files_of(hub)
    assert "Training in progress, step 1" in hub.commits and {
        "model.safetensors",
        "README.md",
    } < set(files)
    assert (tmp_path / "model" / "checkpoint-2" / START).exists() and not any(
        START in name for name in files
    )
    inside = {
        "every_save": None,
        "checkpoint": "last-checkpoint",
        "all_checkpoints": "checkpoint-1",
    }[strategy]
    assert (f"{inside}/optimizer.pt" in files) == (inside is not None)
    assert not any(path.endswith("training_args.bin") for path in files)
    assert not names_sent(hub, SPEAKER)


def test_a_failed_push_in_the_background_warns_and_the_training_goes_on(hub, tmp_path, warnings_of):
    warned = warnings_of(pushes)
    hub.failures["preupload"] = [403]
    trainer = trained(
        tmp_path,
        max_steps=2,
        save_strategy="steps",
        save_steps=1,
        push_to_hub=True,
        hub_always_push=True,
    )
    assert trainer.state.global_step == 2 and "may not write" in warned[0]
    assert hub.commits == ["Training in progress, step 2"]


def test_an_output_folder_with_a_name_does_not_name_the_repository(hub, tmp_path):
    with pytest.raises(ValueError, match="another hub_model_id"):
        make_trainer(tiny_whisper(), tmp_path / SPEAKER, push_to_hub=True, hide_names=[SPEAKER])
    assert not hub.received


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("Wav2Vec2ForCTC", "automatic-speech-recognition"),
        ("WhisperForConditionalGeneration", "automatic-speech-recognition"),
        ("Wav2Vec2ForSequenceClassification", "audio-classification"),
        ("BertForSequenceClassification", "text-classification"),
        ("ViTForImageClassification", "image-classification"),
        ("LlamaForCausalLM", "text-generation"),
        ("T5ForConditionalGeneration", ""),
    ],
)
def test_the_task_of_a_model(name, task):
    kind = getattr(transformers, name)
    assert pipeline_of(kind.__new__(kind)) == task
