"""Every recipe takes a LoRA adapter's folder as the model to unlearn."""

from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCTC,
    AutoModelForImageClassification,
    AutoModelForSpeechSeq2Seq,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    WhisperConfig,
    WhisperForAudioClassification,
)

from hf_unlearn.experiments.images import recipe as images
from hf_unlearn.experiments.speech import classes, ctc, whisper
from tests.recipes import recognisers
from tests.recipes.recognisers import flags

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cache")]


def adapter(folder: Path, kind: type, processor: object, targets: list[str]) -> Path:
    """An adapter of the model in `folder`."""
    model = get_peft_model(kind.from_pretrained(folder), LoraConfig(r=2, target_modules=targets))
    model.save_pretrained(folder.with_name("adapter"))
    processor.save_pretrained(folder.with_name("adapter"))
    return folder.with_name("adapter")


def test_recognisers_take_an_adapter(data, tmp_path, capsys):
    for make, kind, main in (
        (recognisers.turbo, AutoModelForSpeechSeq2Seq, whisper.main),
        (recognisers.wavlm, AutoModelForCTC, ctc.main),
    ):
        model, processor = make()
        folder = recognisers.save(tmp_path / make.__name__ / "model", model, processor)
        saved = adapter(folder, kind, processor, ["q_proj"])
        main(flags(data, tmp_path / "out", model=saved, dry_run="true", lora_r=1))
        assert "trained parameters" in capsys.readouterr().out


def test_classifiers_of_speech_take_an_adapter(data, tmp_path, capsys):
    _, processor = recognisers.turbo()
    labels = {"id2label": {0: "One two.", 1: "Two.", 2: "One."}}
    size = {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "num_mel_bins": 128}
    config = WhisperConfig(**size, max_source_positions=50, classifier_proj_size=8, **labels)
    config.label2id = {name: number for number, name in config.id2label.items()}
    model = WhisperForAudioClassification(config)
    folder = recognisers.save(tmp_path / "model", model, processor.feature_extractor)
    saved = adapter(folder, type(model), processor.feature_extractor, ["q_proj"])
    more = {"label_column": "text", "model": saved, "dry_run": "true"}
    rules = {"stop_when": "forget_loss >= 1000", "abort_when": "test_loss > 1000"}
    classes.main(flags(data, tmp_path / "out", **more, **rules))
    assert "trained parameters" in capsys.readouterr().out


def test_classifiers_of_images_take_an_adapter(noise, tmp_path, capsys):
    size = {"image_size": 8, "patch_size": 4, "hidden_size": 8, "intermediate_size": 16}
    labels = {"id2label": {0: "cat", 1: "dog"}, "label2id": {"cat": 0, "dog": 1}}
    layers = {"num_hidden_layers": 1, "num_attention_heads": 2}
    model = ViTForImageClassification(ViTConfig(**size, **labels, **layers))
    processor = ViTImageProcessor(size={"height": 8, "width": 8})
    folder = recognisers.save(tmp_path / "model", model, processor)
    saved = adapter(folder, AutoModelForImageClassification, processor, ["query", "q_proj"])
    options = {"dataset": noise, "model": saved, "forget_classes": "cat", "test_split": "test"}
    options |= {"output_dir": tmp_path / "out", "retain_size": 2, "dry_run": "true"}
    options |= {"use_cpu": "true", "report_to": "none"}
    images.main([str(part) for name, value in options.items() for part in (f"--{name}", value)])
    assert "trained parameters" in capsys.readouterr().out
