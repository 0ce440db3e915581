"""Adapters are pushed as adapters, or merged on request, and both can be loaded."""

import json

import pytest
import torch
import transformers
from huggingface_hub import ModelCard
from peft import LoraConfig, PeftModel
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from hf_unlearn.experiments.speech.tiny_whisper import (
    build_model,
    build_processor,
    build_word_tokenizer,
)
from hf_unlearn.hub.upload import push_folder
from tests.hub.trained_models import downloaded, files_of
from tests.support.tiny import MELS, VOCABULARY, collate, make_trainer, tiny_whisper, utterances

TASK = "automatic-speech-recognition"


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
