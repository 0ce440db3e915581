"""The CTC recipe and the Whisper recipe with tiny random models of other architectures."""

import json
import re

import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoModelForCTC, AutoProcessor, Qwen3ASRConfig, pipeline

from hf_unlearn import UnlearnConfig
from hf_unlearn.data.speech import SpeechArguments
from hf_unlearn.evaluation import evaluate_splits, features_reducer, sample_features
from hf_unlearn.experiments import parse
from hf_unlearn.experiments.speech import ctc
from hf_unlearn.experiments.speech import whisper as speech
from hf_unlearn.experiments.speech.options import CtcArguments
from tests.recipes import recognisers
from tests.recipes.recognisers import flags
from tests.support.helpers import ROOT, launch

RECIPE = ROOT / "recipes" / "ctc_librispeech"
CTC = (recognisers.wav2vec2, recognisers.parakeet, recognisers.hubert, recognisers.wavlm)
SEQ2SEQ = (recognisers.moonshine, recognisers.speech2text, recognisers.turbo, recognisers.distil)

pytestmark = pytest.mark.usefixtures("cache")


def named(makers: tuple) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("make", makers, ids=lambda make: make.__name__)


@named((*CTC[:2], *SEQ2SEQ[:2]))
def test_a_model_takes_a_step_and_is_measured(make, data, tmp_path):
    model = recognisers.saved(make, tmp_path / "model")
    recipe = ctc if make in CTC else speech
    # The task of Whisper's configurations is what every recogniser does.
    recipe.main(flags(data, tmp_path / "out", model=model, language="en", task="transcribe"))
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {"wer", "cer", "loops", "loss"} <= set(results["unlearned"]["forget_test"])
    assert "loss_auc" in results["attacks"]["unlearned"]


def test_attacks_on_ctc_models_use_what_an_evaluation_one_by_one_has_computed(data, tmp_path):
    model = recognisers.saved(recognisers.wav2vec2, tmp_path / "model")
    given = flags(data, tmp_path / "out", model=model, per_device_eval_batch_size=1)
    kinds = (CtcArguments, SpeechArguments, UnlearnConfig)
    recipe = ctc.CtcRecipe.load(*parse(kinds, given), training=False)
    trainer = recipe.evaluation_trainer(recipe.load_model(str(model)))
    with trainer.collecting_logits(features_reducer(trainer)) as noted:
        evaluate_splits(trainer, trainer.eval_dataset)
    for split, rows in trainer.eval_dataset.items():
        expected, found = sample_features(trainer, rows), noted[f"eval_{split}"]
        assert np.array_equal(expected["loss"], found["loss"]) and found.keys() == {"loss"}
    # In a larger batch a frame may be padding.
    trainer.args.per_device_eval_batch_size = 2
    assert features_reducer(trainer)(torch.zeros(2, 3, 4), torch.zeros(2, 1)) is None


@named((*CTC[2:], *SEQ2SEQ[2:]))
def test_a_dry_run_says_how_transcripts_are_written(make, data, tmp_path, capsys):
    model = recognisers.saved(make, tmp_path / "model")
    recipe = ctc if make in CTC else speech
    recipe.main(flags(data, tmp_path / "out", model=model, dry_run="true"))
    wanted = "vocabulary" if make in CTC else "as_written|own"
    assert re.search(f"transcripts: ({wanted})", capsys.readouterr().out)


def test_a_model_of_another_kind_is_refused(data, tmp_path):
    for make, recipe, other in (
        (recognisers.moonshine, ctc, "whisper_librispeech"),
        (recognisers.wavlm, speech, "ctc_librispeech"),
    ):
        model = recognisers.saved(make, tmp_path / make.__name__)
        with pytest.raises(ValueError, match=f"{make.__name__} model, which .* recipe {other}"):
            recipe.main(flags(data, tmp_path / "out", model=model))


def test_a_language_model_that_hears_is_refused(data, tmp_path):
    """Its labels would need a prompt, which holds the audio."""
    Qwen3ASRConfig().save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="qwen3_asr model, a language model .* its prompt"):
        speech.main(flags(data, tmp_path / "out", model=tmp_path / "model"))


def test_options_that_only_whisper_has_are_refused(data, tmp_path):
    model = recognisers.saved(recognisers.moonshine, tmp_path / "model")
    for options in ({"task": "translate", "language": "de"}, {"augment": 2}):
        with pytest.raises(
            ValueError, match="model is not a Whisper: task: translate, augment, forget_windows and"
        ):
            speech.main(flags(data, tmp_path / "out", model=model, **options))


def test_a_ctc_model_cannot_write_in_a_style(data, tmp_path):
    model = recognisers.saved(recognisers.wavlm, tmp_path / "model")
    with pytest.raises(ValueError, match="sentence, but it is for models with a dec"):
        ctc.main(flags(data, tmp_path / "out", model=model, transcripts="sentence"))
    with pytest.raises(ValueError, match="anna0.wav has a transcript, 'One two.', with .* '.' 'e'"):
        ctc.main(flags(data, tmp_path / "out", model=model, transcripts="as_written"))


def test_a_pretrained_encoder_gets_a_head(data, tmp_path):
    model, processor = recognisers.wavlm()
    model.wavlm.save_pretrained(tmp_path / "encoder")
    processor.feature_extractor.save_pretrained(tmp_path / "encoder")
    with pytest.raises(
        ValueError, match="encoder has no CTC head, .*: train one first, with model"
    ):
        ctc.main(flags(data, tmp_path / "out", model=tmp_path / "encoder"))
    training = {"train_steps": 1, "train_batch_size": 2, "attacks": "false"}
    ctc.main(flags(data, tmp_path / "out", base_model=tmp_path / "encoder", **training))
    trained = AutoModelForCTC.from_pretrained(tmp_path / "out")
    # five special tokens, and "." "O" "T" "e" "n" "o" "t" "w" in the data as they are written
    assert trained.config.vocab_size == 5 + 8
    assert AutoProcessor.from_pretrained(tmp_path / "out").tokenizer.get_vocab()["w"]


def test_a_ctc_model_trained_from_the_start_is_unlearned_and_loads(data, tmp_path):
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
    samples, rate = soundfile.read(data / "anna0.wav", dtype="float32")
    assert isinstance(recogniser({"raw": samples, "sampling_rate": rate})["text"], str)


@pytest.mark.slow
def test_the_command_line_unlearns_retrains_and_reports(data, tmp_path):
    size = {"d_model": 16, "layers": 1, "heads": 2, "train_steps": 2, "max_eval_samples": 2}
    options = flags(data, tmp_path, **size, per_device_eval_batch_size=2)
    shown = launch(RECIPE / "unlearn.py", RECIPE / "fsdd_digits.yaml", *options).stdout
    assert "loss_auc" in shown and shown.count("WER (%)") == 1
    assert (tmp_path / "retrained").is_dir() and (tmp_path / "report.html").is_file()
    assert "automatic-speech-recognition" in (tmp_path / "README.md").read_text()
