"""Labels in a model's own style: how the style is chosen, the model's losses, and the recipe."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import EvalPrediction, WhisperFeatureExtractor

from hf_unlearn import UnlearnConfig
from hf_unlearn.data import SpeechArguments, SpeechCollator, prepare
from hf_unlearn.experiments.speech.label_style import LabelStyle
from hf_unlearn.experiments.speech.model_transcriber import ModelTranscriber
from hf_unlearn.experiments.speech.options import WhisperArguments
from hf_unlearn.experiments.speech.tiny_whisper import (
    build_model,
    build_processor,
    build_word_tokenizer,
)
from hf_unlearn.experiments.speech.whisper import WhisperRecipe
from tests.data.conftest import flac
from tests.data.conftest import rows as make_rows

SIZES = {"d_model": 8, "layers": 1, "heads": 2, "init_std": 0.3, "max_target_positions": 12}
SAID = {"ONE TWO": " One, two.", "TWO": " Too."}

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def processor():
    texts = [*SAID, *SAID.values(), "TWO", " Two.", " One two."]
    processor = build_processor(build_word_tokenizer(texts), 1)
    processor.feature_extractor = WhisperFeatureExtractor(feature_size=8, chunk_length=1)
    return processor


@pytest.fixture
def model(processor):
    return build_model(processor, **SIZES)


@pytest.fixture
def said(monkeypatch):
    """Replaces the model's transcripts; returns the number of utterances in each call."""
    asked = []

    def generate(self, features):
        asked.append(len(features))
        return [" One, two." if i % 2 == 0 else " Too." for i in range(len(features))]

    monkeypatch.setattr(ModelTranscriber, "generate", generate)
    return asked


def utterances(texts):
    rows = make_rows(speakers=["a", "b"], utterances=len(texts) // 2)
    return rows.remove_columns("text").add_column("text", texts)


TEXTS = ["ONE TWO", "TWO", "ONE TWO", "TWO"]


def style_of(model, processor, data, rows):
    style = LabelStyle(ModelTranscriber(model, processor, data), processor, data)
    style.choose(rows)
    return style


def test_own_where_right_else_a_sentence_and_generated_once(processor, model, said):
    rows = utterances(TEXTS)
    for _ in range(2):
        data = SpeechArguments(transcripts="own", language="en")
        chosen = style_of(model, processor, data, rows)
        assert chosen(rows) == [" One, two.", " Two.", " One, two.", " Two."]
        assert chosen.counts == {"own": 2, "sentence": 2}
    assert said == [4]


def test_only_new_utterances_are_transcribed_and_measured(processor, model, said, monkeypatch):
    """Runs that forget other speakers share what is known of an utterance."""
    rows, measured, losses_of = utterances(TEXTS), [], ModelTranscriber.losses_of

    def counted(self, inputs, texts):
        measured.append(texts)
        return losses_of(self, inputs, texts)

    monkeypatch.setattr(ModelTranscriber, "losses_of", counted)
    data, style = SpeechArguments(), {"sentence": [" Two."] * 4}
    first = ModelTranscriber(model, processor, data)
    assert first.transcripts(rows.select([1, 0])) == [" One, two.", " Too."]
    some = first.mean_losses(rows.select([1]), {"sentence": [" Two."]})
    later = ModelTranscriber(model, processor, data)
    assert later.transcripts(rows) == [" Too.", " One, two.", " One, two.", " Too."]
    assert said == [2, 2]
    assert later.mean_losses(rows, style)["sentence"] != some["sentence"] and len(measured) == 4
    # Another text of an utterance has another loss, and another model says something else.
    later.mean_losses(rows, {"sentence": [" One two.", *style["sentence"][1:]]})
    assert len(measured) == 5
    model.proj_out.weight.data.fill_(1.0)
    ModelTranscriber(model, processor, data).transcripts(rows)
    assert said == [2, 2, 4]


def test_the_losses_are_those_of_each_utterance_alone(processor, model, said):
    rows = utterances(TEXTS)
    chosen = style_of(model, processor, SpeechArguments(), rows)
    texts = {
        "as_written": TEXTS,
        "sentence": [" One two.", " Two."] * 2,
        "own": [" One, two.", " Two."] * 2,
    }
    collator = SpeechCollator(processor, model.config.decoder_start_token_id)
    for name, labels in texts.items():
        prepared = prepare(rows, processor, max_label_length=12, label_texts=labels)
        with torch.no_grad():
            losses = [model(**collator([row])).loss.item() for row in prepared]
        assert chosen.losses[name] == pytest.approx(np.mean(losses), rel=1e-4)


@pytest.mark.parametrize(
    ("written", "sentence", "decided"), [(1.8, 0.8, "own"), (0.5, 3.0, "as_written")]
)
def test_the_default_is_what_the_model_finds_likelier(
    processor, model, said, monkeypatch, written, sentence, decided
):
    losses = {"as_written": written, "sentence": sentence, "own": 0.1}
    monkeypatch.setattr(ModelTranscriber, "mean_losses", lambda *_: losses)
    data = SpeechArguments()
    chosen = style_of(model, processor, data, utterances(TEXTS))
    assert chosen.name == decided and data.transcripts is None and chosen.losses == losses


def test_a_new_model_has_no_style(processor):
    data = SpeechArguments()
    style = LabelStyle(None, processor, data)
    style.choose(utterances(TEXTS))
    assert style(utterances(TEXTS)) == TEXTS
    assert style.name == "as_written"
    with pytest.raises(
        ValueError, match="transcripts is own, but a new model cannot transcribe yet"
    ):
        LabelStyle(None, processor, SpeechArguments(transcripts="own"))


@pytest.fixture
def folder(tmp_path):
    """Three speakers, of whom only one has transcripts."""
    root = tmp_path / "speech"
    lines = ["file_name,speaker,text,split"]
    for number, speaker in enumerate("abc"):
        (root / speaker).mkdir(parents=True)
        for take in range(4):
            (root / speaker / f"{take}.flac").write_bytes(flac(seed=10 * number + take))
            text = "ONE TWO" if speaker == "a" else ""
            lines.append(
                f"{speaker}/{take}.flac,{speaker},{text},{'train' if take < 3 else 'test'}"
            )
    (root / "metadata.csv").write_text("\n".join(lines) + "\n")
    return root


def recipe_of(model: Path, folder: Path, tmp_path, options=None, **data):
    data = SpeechArguments(
        dataset=str(folder),
        speaker_column="speaker",
        train_split="train",
        test_split="test",
        forget_speakers=["a"],
        retain_size=4,
        **data,
    )
    args = UnlearnConfig(
        output_dir=str(tmp_path / "out"), use_cpu=True, report_to="none", disable_tqdm=True
    )
    options = WhisperArguments(model=str(model), normalize="none", **(options or {}))
    given = repr((data, args))
    recipe = WhisperRecipe.load(options, data, args, training=False)
    # What a run decides is in its own copies.
    assert repr((data, args)) == given
    return recipe


def test_the_recipe_retains_audio_without_transcripts(
    processor, model, said, folder, tmp_path, caplog
):
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    with caplog.at_level(logging.WARNING):
        recipe = recipe_of(tmp_path / "model", folder, tmp_path, transcripts="own")
    assert "4 of 4 utterances have no transcript" in caplog.text
    decode = recipe.processor.tokenizer.decode
    retain, forget = recipe.splits.retain, recipe.splits.forget
    spoken = [decode(row["labels"], skip_special_tokens=True) for row in retain]
    assert set(spoken) == {" One, two.", " Too."} and [text.strip() for text in spoken] == list(
        retain["text"]
    )
    assert {decode(row["labels"], skip_special_tokens=True) for row in forget} == {
        " One, two.",
        " One two.",
    }
    # The references of WER are the texts of the data.
    compute = recipe.metrics()
    right = recipe.processor.tokenizer(
        ["ONE TWO"] * len(forget), add_special_tokens=False
    ).input_ids
    labels = [row["labels"] for row in forget]
    assert (
        compute(
            EvalPrediction(
                np.array(right), np.array([row + [-100] * (12 - len(row)) for row in labels])
            )
        )["wer"]
        == 0
    )
    assert (
        recipe.plan()["transcripts"] == "own"
        and "sentence" in recipe.plan()["original's loss by transcripts"]
    )


def test_the_recipe_refuses_a_prompt_that_generate_does_not_have(
    processor, model, folder, tmp_path
):
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    with pytest.raises(
        ValueError, match="takes neither: it knows one language only. Leave both out"
    ):
        recipe_of(tmp_path / "model", folder, tmp_path, language="en", task="transcribe")
    path = tmp_path / "model" / "generation_config.json"
    settings = json.loads(path.read_text())
    del settings["no_timestamps_token_id"]
    path.write_text(json.dumps({**settings, "forced_decoder_ids": [[1, 3]]}))
    with pytest.raises(
        ValueError,
        match=r"begin with <\|startoftranscript\|><\|notimestamps\|>, but generate\(\) begins with",
    ):
        recipe_of(tmp_path / "model", folder, tmp_path)


@pytest.fixture
def unlearned(processor, model, monkeypatch, tmp_path):
    """The folder of a model that says something else than its original, in tmp_path/model."""
    for name in ("model", "unlearned"):
        model.save_pretrained(tmp_path / name)
        processor.save_pretrained(tmp_path / name)
        model.proj_out.weight.data.fill_(1.0)

    def generate(self, features):
        forgot = bool((self.model.proj_out.weight == 1).all())
        return [" Too." if forgot else " One, two."] * len(features)

    monkeypatch.setattr(ModelTranscriber, "generate", generate)
    return tmp_path / "unlearned"


def result_of_run(folder: Path, **recipe) -> None:
    config = {"recipe": recipe, "data": {"transcripts": "own"}}
    (folder / "results.json").write_text(json.dumps({"config": config}))


def spoken(recipe) -> set[str]:
    decode = recipe.processor.tokenizer.decode
    return {decode(row["labels"], skip_special_tokens=True) for row in recipe.splits.retain}


@pytest.mark.parametrize("of_run", [{"model": "."}, {"model": "train", "base_model": "."}])
def test_an_evaluated_model_does_not_write_its_own_labels(unlearned, folder, tmp_path, of_run):
    original = str(tmp_path / "model")
    result_of_run(unlearned, **{k: original if v == "." else v for k, v in of_run.items()})
    recipe = recipe_of(unlearned, folder, tmp_path, {"evaluate": True})
    assert recipe.data.transcripts == "own" and spoken(recipe) == {" One, two."}
    labels = recipe.evaluation_notes()["labels"]
    assert labels["model"] == original and f"labels by {original} (" in labels["note"]
    # a run that starts from it does follow its style
    assert spoken(recipe_of(unlearned, folder, tmp_path, transcripts="own")) == {" Too."}


def test_an_evaluation_says_whose_labels_it_takes_instead(unlearned, folder, tmp_path, caplog):
    result_of_run(unlearned, model=str(tmp_path / "gone"))
    with caplog.at_level(logging.WARNING):
        recipe = recipe_of(unlearned, folder, tmp_path, {"evaluate": True})
    assert "gone" in caplog.text and "give the original as labels_from" in caplog.text
    assert spoken(recipe) == {" Too."}
    assert "the evaluated model itself" in recipe.evaluation_notes()["labels"]["note"]
    options = {"evaluate": True, "labels_from": str(tmp_path / "model")}
    assert spoken(recipe_of(unlearned, folder, tmp_path, options)) == {" One, two."}
    (unlearned / "results.json").unlink()
    recipe = recipe_of(unlearned, folder, tmp_path, {"evaluate": True}, transcripts="own")
    assert "because it has no results.json" in recipe.evaluation_notes()["labels"]["note"]
    options = {"labels_from": str(tmp_path / "gone")}
    with pytest.raises(ValueError, match="could not load '.*gone'"):
        recipe_of(unlearned, folder, tmp_path, options, transcripts="own")
