"""Classifiers of audio: scripts in the manner of transformers' example work with the class name
changed, and a classifier of speakers is published without a name."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset
from transformers import (
    AutoModelForAudioClassification,
    HubertConfig,
    HubertForSequenceClassification,
    PreTrainedModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
    WavLMConfig,
    WavLMForSequenceClassification,
)

from hf_unlearn import UnlearnConfig, UnlearnTrainer
from hf_unlearn.hub.neutral_labels import make_labels_neutral
from tests.support.texts import names_sent
from tests.support.tiny_speech import waveform_sizes

SPEAKERS = ["Anna Karenina", "Boris", "Clara Zetkin"]
MODELS = {
    "wav2vec2": (Wav2Vec2ForSequenceClassification, Wav2Vec2Config),
    "hubert": (HubertForSequenceClassification, HubertConfig),
    "wavlm": (WavLMForSequenceClassification, WavLMConfig),
}


def transform(batch: dict, extractor: Wav2Vec2FeatureExtractor) -> dict:
    """As in run_audio_classification.py: what the collator pads, and labels."""
    inputs = extractor([np.array(audio) for audio in batch["audio"]], sampling_rate=16_000)
    name = extractor.model_input_names[0]
    return {name: inputs.get(name), "labels": list(batch["label"])}


def compute_metrics(evaluated) -> dict:
    predicted = np.argmax(evaluated.predictions, axis=1)
    return {"accuracy": float((predicted == evaluated.label_ids).mean())}


@pytest.fixture
def recordings() -> Dataset:
    """Recordings of different lengths, by three speakers in turn."""
    rng = np.random.default_rng(0)
    rows = [
        {"audio": rng.normal(size=rng.integers(800, 1600)).astype("float32"), "label": number % 3}
        for number in range(9)
    ]
    return Dataset.from_list(rows).cast_column("label", ClassLabel(names=SPEAKERS))


def classifier(name: str, labels: list[str]) -> PreTrainedModel:
    kind, config = MODELS[name]
    names = {str(number): label for number, label in enumerate(labels)}
    numbers = {label: number for number, label in names.items()}
    model = kind(config(**waveform_sizes(), label2id=numbers, id2label=names))
    model.freeze_feature_encoder()
    return model


def train_as_the_stock_script(model: PreTrainedModel, recordings: Dataset, out: Path) -> None:
    """Trains and pushes as run_audio_classification.py does, with the class name changed."""
    extractor = Wav2Vec2FeatureExtractor()
    recordings.set_transform(partial(transform, extractor=extractor), output_all_columns=False)
    trainer = UnlearnTrainer(
        model=model,
        args=UnlearnConfig(
            output_dir=str(out),
            remove_unused_columns=False,
            max_steps=1,
            per_device_train_batch_size=3,
            per_device_retain_batch_size=3,
            eval_strategy="steps",
            eval_steps=1,
            save_strategy="no",
            hide_names=["Anna Karenina"],
            hub_model_id="tester/quiet",
            push_to_hub=True,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        ),
        train_dataset=recordings.select(range(0, 9, 3)),
        retain_dataset=recordings.select([1, 2, 4, 5]),
        eval_dataset=recordings,
        compute_metrics=compute_metrics,
        processing_class=extractor,
    )
    trainer.train()
    trainer.push_to_hub(tasks="audio-classification", tags=["audio-classification"])


@pytest.mark.parametrize("name", MODELS)
def test_a_classifier_of_speakers_is_trained_by_the_stock_script_and_names_nobody(
    hub, tmp_path, recordings, name
):
    model = classifier(name, recordings.features["label"].names)
    train_as_the_stock_script(model, recordings, tmp_path / "model")
    published = json.loads(hub.files["tester/quiet"]["config.json"])
    assert published["id2label"] == {"0": "speaker_0", "1": "speaker_1", "2": "speaker_2"}
    assert published["label2id"] == {"speaker_0": 0, "speaker_1": 1, "speaker_2": 2}
    assert not names_sent(hub, *SPEAKERS)
    assert AutoModelForAudioClassification.from_pretrained("tester/quiet").config.id2label == dict(
        enumerate(published["label2id"])
    )
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["id2label"]["1"] == "Boris"


@pytest.mark.parametrize(
    ("labels", "hidden", "published"),
    [
        (["yes", "no"], ["Anna"], ["yes", "no"]),
        (["anna_k", "boris"], ["Anna K"], ["speaker_0", "speaker_1"]),
        # a number that would be too short to search for elsewhere
        (["3", "14"], ["3"], ["speaker_0", "speaker_1"]),
        (["13", "14"], ["3"], ["13", "14"]),
    ],
)
def test_labels_become_neutral_if_one_of_them_names_somebody(tmp_path, labels, hidden, published):
    config = {"id2label": dict(enumerate(labels)), "label2id": {n: i for i, n in enumerate(labels)}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    make_labels_neutral(tmp_path, hidden, "speaker")
    saved = json.loads((tmp_path / "config.json").read_text())
    assert list(saved["id2label"].values()) == list(saved["label2id"]) == published
    assert list(saved["label2id"].values()) == [0, 1]
