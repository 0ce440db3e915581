"""Runs the recipe for classifiers of speech on noise with tiny models: through its command line,
and published to a Hub on this machine."""

import json
from pathlib import Path

import pytest
from transformers import (
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    HubertConfig,
    HubertForSequenceClassification,
    Wav2Vec2FeatureExtractor,
)

from hf_unlearn.experiments.speech.classes import ClassRows, main
from hf_unlearn.metrics import ATTACKS
from tests.recipes.configurations import RECIPES
from tests.support.helpers import assert_drawn, launch
from tests.support.texts import bare, names_sent
from tests.support.tiny_speech import waveform_sizes, write_noise

pytestmark = pytest.mark.slow

FOLDER = RECIPES / "speech_classification"
SPEAKERS = ["Zebulon", "Quixote", "Yolanda"]
TINY = (
    "--train_steps 2 --train_batch_size 4 --max_steps 1 --retain_size 4 --disable_tqdm true "
    "--per_device_train_batch_size 4 --per_device_retain_batch_size 4 --check_steps 1 "
    "--d_model 16 --layers 1 --heads 2 --relearn_samples 0 --abort_when test_loss>1000 "
    "--stop_when forget_loss>=1000"
).split()


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> Path:
    """Two words by three speakers, five takes in training and two in the test split."""
    return write_noise(
        tmp_path_factory.mktemp("words"),
        (
            (f"{speaker}_{word}_{take}.flac", speaker, word, "test" if take < 2 else "train")
            for speaker in SPEAKERS
            for word in ("yes", "no")
            for take in range(7)
        ),
        lengths=(2000, 4000),
    )


def test_keywords_forget_a_speaker_and_leave_all_that_is_promised(words, tmp_path):
    out = tmp_path / "out"
    flags = [*TINY, "--dataset", words, "--output_dir", out, "--forget_speakers", "Zebulon"]
    shown = launch(FOLDER / "unlearn.py", FOLDER / "fsdd_keywords.yaml", *flags).stdout
    results = json.loads((out / "results.json").read_text())
    splits = {"forget", "forget_test", "retain", "test"}
    assert results["task"] == "speaker_data"
    for model in ("original", "unlearned", "retrained"):
        assert set(results[model]) == set(results["per_speaker"][model]) == splits
        assert set(results["per_class"][model]["test"]) == {"yes", "no"}
        assert set(results["per_speaker"][model]["test"]) == {"Quixote", "Yolanda"}
        assert set(results["attacks"][model]) == {n for n in ATTACKS if not n.startswith("lira")}
        assert results["training"][model]["seconds"] > 0
    assert set(results["scores"]["unlearned"]) == {"uis", "aus", "gum"}
    assert results["unlearned"]["test"]["f1_macro"] > 0
    assert shown.count("Macro F1 (%)") == 1 and "gum" in shown and "loss_auc" in shown
    assert_drawn(out / "forgetting.png")
    card = (out / "README.md").read_text()
    assert "pipeline_tag: audio-classification" in card and "1 speaker" in card
    assert not any(bare(speaker) in bare(card) for speaker in SPEAKERS)
    model = AutoModelForAudioClassification.from_pretrained(out)
    assert set(model.config.label2id) == {"yes", "no"}
    assert AutoFeatureExtractor.from_pretrained(out).chunk_length == 1


def test_a_published_classifier_of_speakers_names_nobody(hub, words, tmp_path, cache):
    """A HuBERT whose head does not fit the data gets a new one; the speakers are its labels."""
    start = tmp_path / "start"
    HubertForSequenceClassification(HubertConfig(**waveform_sizes())).save_pretrained(start)
    Wav2Vec2FeatureExtractor().save_pretrained(start)
    flags = ["--dataset", words, "--output_dir", tmp_path / "out", "--forget_speakers", "Zebulon"]
    flags += ["--base_model", start, "--push_to_hub", "true", "--hub_model_id", "tester/quiet"]
    flags += ["--gold", "none", "--attacks", "false"]
    main(list(map(str, [FOLDER / "fsdd_speakers.yaml", *TINY, *flags, "--train_steps", "1"])))
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["task"] == "speaker_classes" and "per_class" not in results
    assert set(results["per_speaker"]["unlearned"]["forget"]) == {"Zebulon"}
    published = json.loads(hub.files["tester/quiet"]["config.json"])
    assert sorted(published["label2id"]) == ["speaker_0", "speaker_1", "speaker_2"]
    assert not names_sent(hub, *SPEAKERS)
    model = AutoModelForAudioClassification.from_pretrained(tmp_path / "out")
    assert set(model.config.label2id) == set(SPEAKERS)


def test_strangers_stand_in_where_the_forgotten_speaker_has_no_unseen_utterance(
    words, tmp_path, cache
):
    """UnSLU-BENCH: the test split has other speakers, and nothing is held out."""
    lines = (words / "metadata.csv").read_text().splitlines()
    table = [f"{lines[0].replace('split', 'part')},split"]
    table += [f"{line},{'test' if 'Yolanda' in line else 'train'}" for line in lines[1:]]
    rows = tmp_path / "words.csv"
    rows.write_text("\n".join(table).replace("\n", f"\n{words}/"))
    flags = ["--dataset", rows, "--audio_column", "file_name", "--held_out", 0]
    flags += ["--output_dir", tmp_path / "out", "--forget_speakers", "Zebulon", "--gold", "none"]
    flags += ["--stop_when", "forget_loss >= 1000", "--abort_when", "other_loss > 1000"]
    main(list(map(str, [FOLDER / "fsdd_keywords.yaml", *TINY, *flags])))
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert set(results["unlearned"]) == {"forget", "retain", "other"}
    assert results["attacks"]["unlearned"]["loss_auc"] is not None
    assert set(results["scores"]["unlearned"]) == {"uis", "aus"}


def test_rows_have_the_labels_of_a_heads_own_order():
    rows = [{"input_values": [0.5], "speaker": "a", "labels": label} for label in range(3)]
    class_rows = ClassRows(rows, [2, 0, 1], ["input_values", "attention_mask"])
    assert [class_rows[row] for row in range(len(class_rows))] == [
        {"input_values": [0.5], "labels": label} for label in (2, 0, 1)
    ]
