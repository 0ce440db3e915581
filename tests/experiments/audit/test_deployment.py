"""The output folder deploys: the files that other runtimes read, and CTranslate2's transcripts."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import WavLMConfig, WavLMForCTC, WhisperProcessor

from hf_unlearn import UnlearnConfig, UnlearnTrainer
from hf_unlearn.experiments.audit.ctranslate2 import converted, transcripts
from hf_unlearn.experiments.audit.deployment_forms import measure_int8, round_model
from hf_unlearn.experiments.audit.door import DoorUnavailable
from hf_unlearn.experiments.audit.examiner import SpeechExaminer
from tests.experiments.audit.subjects import (
    Classifier,
    batch_of,
    fitted,
    new_whisper,
    speech_recipe,
)
from tests.support.tiny_speech import waveform_sizes


@pytest.fixture
def saved(monkeypatch, tmp_path):
    """A recipe, its model, and the folder that the trainer has saved it to."""
    recipe = speech_recipe(monkeypatch)
    model = new_whisper(recipe)
    # Half trained, so that its errors depend on the numbers.
    fitted(model, batch_of(recipe, model, ("forget", "en"), ("retain", "en")), steps=25)
    args = UnlearnConfig(str(tmp_path), report_to="none", use_cpu=True, disable_tqdm=True)
    UnlearnTrainer(model=model, args=args, processing_class=recipe.processor).save_model()
    return recipe, model, tmp_path


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_folder_has_the_files_that_other_runtimes_read(saved):
    recipe, model, folder = saved
    tokenizer, extractor = recipe.processor.tokenizer, recipe.processor.feature_extractor
    preprocessor = read(folder / "preprocessor_config.json")
    assert preprocessor["feature_size"] == extractor.feature_size == 80
    assert preprocessor["n_samples"] == extractor.n_samples
    words, added = read(folder / "vocab.json"), read(folder / "added_tokens.json")
    assert words | added == tokenizer.get_vocab()
    # As the converter of whisper.cpp numbers them.
    assert list(words.values()) == list(range(len(words))) and "<|endoftext|>" in words
    assert "<|en|>" in added and "<|endoftext|>" not in added
    generation = read(folder / "generation_config.json")
    assert generation["no_timestamps_token_id"] == added["<|notimestamps|>"]
    assert generation["lang_to_id"]["<|en|>"] == added["<|en|>"]
    loaded = WhisperProcessor.from_pretrained(folder)
    assert loaded.feature_extractor.to_dict() == extractor.to_dict()
    assert loaded.tokenizer("red green").input_ids == tokenizer("red green").input_ids


def test_a_model_that_reads_the_weights_of_its_layers_cannot_be_in_8_bits():
    """WavLM's attention joins the biases of three layers."""
    sizes = waveform_sizes(vocab_size=5, num_buckets=8)
    model, sound = WavLMForCTC(WavLMConfig(**sizes)).eval(), torch.randn(1, 800)
    examiner = SimpleNamespace(recognition_and_loss=lambda model: model(sound))
    subject = SimpleNamespace(model=model, copy=lambda: copy.deepcopy(model), examiner=examiner)
    with pytest.raises(DoorUnavailable, match="reads the weights of its linear layers itself"):
        measure_int8(subject)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_rounded_model_computes_about_as_one_in_another_type(dtype):
    torch.manual_seed(0)
    model = Classifier(20, 64, 64, 5)
    batch = {"x": torch.randn(40, 20).to(dtype).float(), "labels": torch.zeros(40).long()}
    exact = model(**batch)["logits"]
    other = copy.deepcopy(model).to(dtype)(batch["x"].to(dtype), batch["labels"])["logits"].float()
    found = round_model(model, dtype)(**batch)["logits"]
    assert torch.equal(found, found.to(dtype).float()) and found.dtype == torch.float32
    assert (found - other).abs().mean() < 0.1 * (other - exact).abs().mean()


def test_the_public_converter_of_ctranslate2_gives_the_same_transcripts(saved):
    converters = pytest.importorskip("ctranslate2").converters
    recipe, model, folder = saved
    examiner = SpeechExaminer(recipe, model, 100)
    with converted(folder, "float32") as runtime:
        said = transcripts(runtime, model, recipe, examiner)
    errors, words = examiner.errors(said, examiner.splits["forget_test"]["text"][:])
    wer = 100 * errors.sum() / words.sum()
    assert abs(wer - examiner.recognition(model).value) <= 0.5
    # The files that faster-whisper's own instructions copy.
    names = ["tokenizer.json", "preprocessor_config.json"]
    made = converters.TransformersConverter(str(folder), copy_files=names)
    target = made.convert(str(folder / "ct2"), quantization="int8")
    files = {path.name for path in Path(target).iterdir()}
    assert {"model.bin", "config.json", "vocabulary.json", *names} <= files
