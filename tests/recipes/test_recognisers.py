"""The CTC recipe and the Whisper recipe with tiny random models of other architectures."""

import json

import datasets
import pytest
from transformers import AutoModelForCTC, AutoProcessor, pipeline

from hf_unlearn.experiments import ctc, speech
from tests.recipes import recognisers

CTC = (recognisers.wav2vec2, recognisers.hubert, recognisers.wavlm, recognisers.parakeet)
SEQ2SEQ = (recognisers.moonshine, recognisers.speech2text, recognisers.turbo, recognisers.distil)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return recognisers.write_speech(tmp_path_factory.mktemp("speech") / "data")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def flags(data, out, **changes) -> list[str]:
    options = {
        "dataset": data,
        "output_dir": out,
        "speaker_column": "speaker",
        "train_split": "train",
        "test_split": "test",
        "forget_speakers": "anna",
        "retain_size": 2,
        "max_steps": 1,
        "per_device_train_batch_size": 2,
        "per_device_retain_batch_size": 2,
        "learning_rate": 1e-3,
        "use_cpu": "true",
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": "true",
        **changes,
    }
    return [str(part) for name, value in options.items() for part in (f"--{name}", value)]


@pytest.mark.parametrize("make", [*CTC, *SEQ2SEQ], ids=lambda make: make.__name__)
def test_a_model_of_each_architecture_takes_a_step(make, data, tmp_path):
    model = recognisers.saved(make, tmp_path / "model")
    recipe = ctc if make in CTC else speech
    recipe.main(flags(data, tmp_path / "out", model=model))
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {"wer", "cer", "loops", "loss"} <= set(results["unlearned"]["forget_test"])
    assert "loss_auc" in results["attacks"]["unlearned"]


def test_a_new_ctc_model(data, tmp_path):
    size = {"d_model": 16, "layers": 1, "heads": 2, "train_steps": 2, "train_batch_size": 2}
    ctc.main(flags(data, tmp_path, gold="train", **size))
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results["retrained"]) == {"forget", "forget_test", "retain", "test"}
    processor = AutoProcessor.from_pretrained(tmp_path)
    recogniser = pipeline(
        "automatic-speech-recognition",
        model=AutoModelForCTC.from_pretrained(tmp_path),
        tokenizer=processor.tokenizer,
        feature_extractor=processor.feature_extractor,
    )
    assert isinstance(recogniser(str(data / "anna0.wav"))["text"], str)
