"""Uploads to a Hub on this machine are complete, can be loaded, and name nobody.

A push that fails says why.
"""

import itertools
import json
from pathlib import Path

import huggingface_hub
import pytest
import torch
import transformers
import yaml
from huggingface_hub import ModelCard
from peft import LoraConfig, PeftModel
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from hf_unlearn.experiments.speech.tiny_whisper import (
    build_model,
    build_processor,
    build_word_tokenizer,
)
from hf_unlearn.hub.upload import HubError, push_folder
from hf_unlearn.report.results import Results
from hf_unlearn.trainer.checkpoints.start_weights import START
from hf_unlearn.trainer.publishing import pushes
from hf_unlearn.trainer.publishing.run_results import pipeline_of
from tests.support.hub_server import TOKEN
from tests.support.tiny import MELS, VOCABULARY, collate, make_trainer, tiny_whisper, utterances

SPEAKER = "anna-karenina"
TASK = "automatic-speech-recognition"


def trained(tmp_path, **options):
    arguments = {
        name: options.pop(name) for name in ("peft_config", "eval_dataset") if name in options
    }
    trainer = make_trainer(
        tiny_whisper(),
        tmp_path / "model",
        optimizer=False,
        learning_rate=1e-3,
        arguments=arguments,
        **options,
    )
    trainer.train()
    return trainer


@pytest.fixture
def finished(tmp_path):
    """The output folder of a recipe that forgot SPEAKER."""
    folder = tmp_path / f"without_{SPEAKER}"
    model = tiny_whisper()
    model.save_pretrained(folder)
    metrics = {"samples": 4, "loss": 1.5, "wer": 81.25, "wer_low": 70.0, "wer_high": 90.0}
    Results.from_dict(
        {
            "task": "speakers",
            "config": {
                "data": {"forget_speakers": [SPEAKER]},
                "trainer": {"method": "orthograd", "output_dir": str(folder)},
            },
            "data": {
                "utterances": {"forget": 4, "retain": 6},
                "speakers": {"forget": [SPEAKER], "retain": ["boris"]},
                "forget_ids": [f"{SPEAKER}-0001"],
                "retain_ids": ["boris-0001"],
            },
            "seed": 0,
            "environment": None,
            "original": {"forget": metrics},
            "unlearned": {"forget": metrics},
            "retrained": None,
            "stopping": None,
            "command": f"/home/somebody/unlearn.py x.yaml --forget_speakers {SPEAKER} "
            f"--output_dir {folder}",
            "card": {
                "datasets": ["openslr/librispeech_asr"],
                "language": "en",
                "model_name": "quiet",
            },
        },
    ).write(folder)
    return folder


def downloaded(hub, tmp_path, repo="tester/model") -> Path:
    for path, content in hub.files[repo].items():
        target = tmp_path / "downloaded" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return tmp_path / "downloaded"


def files_of(hub, repo="tester/model"):
    return hub.files[repo]


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
    received = b"\n".join(hub.received)
    assert SPEAKER.encode() not in received and TOKEN.encode() not in received
    assert str(tmp_path).encode() not in received


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


def test_a_finished_run_names_nobody(hub, finished):
    push_folder(finished, "tester/quiet")
    files = files_of(hub, "tester/quiet")
    assert SPEAKER.encode() not in b"\n".join(hub.received).lower()
    assert b"boris" not in b"\n".join(hub.received) and b"/home/somebody" not in b"\n".join(
        hub.received
    )
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
        (lambda folder: spoil_config(folder), "config.json says 'anna-karenina'"),
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
def test_what_cannot_be_published_is_refused_before_anything_is_sent(hub, finished, spoil, message):
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
        ("preupload", itertools.repeat(503), "push again later"),
        ("PUT /lfs/", itertools.repeat(0), "model.safetensors"),
        ("PUT /lfs/", itertools.repeat(400), "model.safetensors"),
    ],
    ids=["401", "403", "429", "503", "broken upload", "refused upload"],
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


def test_an_adapter_is_pushed_as_adapter_and_merged_on_request(hub, tmp_path):
    base = tmp_path / "base"
    tiny_whisper().save_pretrained(base)
    trainer = make_trainer(
        WhisperForConditionalGeneration.from_pretrained(base),
        tmp_path / "model",
        optimizer=False,
        learning_rate=0.1,
        arguments={"peft_config": LoraConfig(r=2, target_modules=["q_proj"])},
    )
    trainer.train()
    with pytest.raises(ValueError, match="not on the Hub"):
        trainer.push_to_hub()
    (tmp_path / "model" / "config.json").write_text("{}")
    trainer.push_to_hub(merge=True)
    # the merged model is written elsewhere
    assert (tmp_path / "model" / "config.json").read_text() == "{}"
    assert "model.safetensors" in files_of(hub) and "adapter_model.safetensors" not in files_of(hub)
    loaded = WhisperForConditionalGeneration.from_pretrained(downloaded(hub, tmp_path))
    merged = trainer.model.merge_and_unload().state_dict()
    assert all(
        torch.allclose(value, merged[name], atol=1e-6)
        for name, value in loaded.state_dict().items()
    )

    config = json.loads((tmp_path / "model" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "tester/base"
    (tmp_path / "model" / "adapter_config.json").write_text(json.dumps(config))
    push_folder(tmp_path / "model", "tester/adapter")
    files = files_of(hub, "tester/adapter")
    assert "adapter_model.safetensors" in files and "model.safetensors" not in files
    card = ModelCard(files["README.md"].decode())
    assert card.data.library_name == "peft" and "`adapter=LORA`, `lora_r=2`" in card.text


@pytest.fixture
def speech_model(hub, tmp_path):
    """The repository of a tiny Whisper with its processor."""
    words = "zero one two three four five six seven eight nine and a hundred thousand more"
    processor = build_processor(build_word_tokenizer([words]), chunk_length=1)
    processor.feature_extractor = transformers.WhisperFeatureExtractor(
        feature_size=MELS, chunk_length=1
    )
    assert len(processor.tokenizer) >= VOCABULARY
    for part in (
        processor,
        build_model(processor, d_model=16, layers=1, heads=2, max_target_positions=20),
    ):
        part.save_pretrained(tmp_path / "base")
    hub.files["tester/base"] = {
        path.name: path.read_bytes() for path in (tmp_path / "base").iterdir()
    }
    return "tester/base"


def test_pipelines_and_peft_load_a_pushed_adapter_and_its_merged_model(hub, speech_model, tmp_path):
    base = WhisperForConditionalGeneration.from_pretrained(speech_model)
    trainer = make_trainer(
        base,
        tmp_path / "model",
        optimizer=False,
        learning_rate=0.5,
        max_steps=3,
        arguments={
            "peft_config": LoraConfig(r=2, target_modules=["q_proj", "v_proj"]),
            "processing_class": WhisperProcessor.from_pretrained(speech_model),
        },
    )
    trainer.train()
    trainer.push_to_hub()
    push_folder(tmp_path / "model", "tester/merged", merge=True)
    batch = collate(utterances(3, seed=5))
    original = WhisperForConditionalGeneration.from_pretrained(speech_model)
    with torch.no_grad():
        expected = trainer.model.eval()(**batch).logits
        # the adapter changes the outputs
        assert not torch.allclose(original(**batch).logits, expected, atol=1e-3)
        by_peft = PeftModel.from_pretrained(original, "tester/model")
        for model in (
            by_peft,
            *(
                transformers.pipeline(TASK, model=name).model
                for name in ("tester/model", "tester/merged")
            ),
        ):
            torch.testing.assert_close(model(**batch).logits, expected, atol=1e-5, rtol=1e-4)
    sound = torch.randn(8000, generator=torch.Generator().manual_seed(0)).numpy()
    # older pipelines ask for 256 tokens even if the model has fewer positions
    short = {"max_new_tokens": 8}
    texts = [
        transformers.pipeline(TASK, model=name)(sound, generate_kwargs=short)["text"]
        for name in ("tester/model", "tester/merged")
    ]
    assert texts[0] == texts[1]


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
    assert SPEAKER.encode() not in b"\n".join(hub.received)


def test_a_failed_push_in_the_background_warns_and_the_training_goes_on(hub, tmp_path, monkeypatch):
    warned = []
    monkeypatch.setattr(pushes.logger, "warning", warned.append)
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
