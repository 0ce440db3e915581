"""Labels in the own style of a CTC model: its transcripts where they are right or nothing else is
known."""

import json
import re

import numpy as np
import pytest
import torch
from transformers import EvalPrediction

from hf_unlearn import UnlearnConfig
from hf_unlearn.data import SpeechArguments
from hf_unlearn.experiments.speech.ctc import CtcRecipe
from hf_unlearn.experiments.speech.ctc_style import CtcStyle, CtcTranscriber
from hf_unlearn.experiments.speech.options import CtcArguments
from tests.recipes import recognisers

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def data(tmp_path):
    """bert's utterances have no transcripts."""
    folder = recognisers.write_speech(tmp_path / "data")
    lines = (folder / "metadata.csv").read_text().splitlines()
    cells = [line.split(",") for line in lines]
    lines = [",".join([*row[:2], "" if row[1] == "bert" else row[2], row[3]]) for row in cells]
    (folder / "metadata.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture
def says(monkeypatch):
    """Replaces all transcripts."""

    def replace(text: str) -> None:
        monkeypatch.setattr(CtcTranscriber, "generate", lambda self, heard: [text] * len(heard))

    return replace


def recipe_of(model, data, tmp_path, *, evaluate: bool = False, **arguments) -> CtcRecipe:
    options = CtcArguments(model=str(model), evaluate=evaluate, normalize="none")
    data = SpeechArguments(
        dataset=str(data),
        speaker_column="speaker",
        train_split="train",
        test_split="test",
        forget_speakers=["anna"],
        retain_size=4,
        language="en",
        **arguments,
    )
    args = UnlearnConfig(str(tmp_path / "out"), use_cpu=True, report_to="none")
    given = repr((data, args))
    recipe = CtcRecipe.load(options, data, args, training=False)
    # What a run decides is in its own copies.
    assert repr((data, args)) == given
    return recipe


def labels(recipe, split: str) -> list[str]:
    decode = recipe.processor.tokenizer.decode
    rows = recipe.splits.evaluation()[split]
    return [decode(ids, group_tokens=False) for ids in rows["labels"][:]]


def test_own_where_right_or_nothing_is_known_else_the_vocabulary(data, tmp_path, says):
    says("TWO")
    model = recognisers.saved(recognisers.hubert, tmp_path / "model")
    recipe = recipe_of(model, data, tmp_path, transcripts="own")
    # anna says "One two.", "Two.", "One.", "One two." in training.
    assert sorted(labels(recipe, "forget")) == ["ONE", "ONE TWO", "ONE TWO", "TWO"]
    assert labels(recipe, "retain") == ["TWO"] * 4
    record = recipe.labels()
    assert set(record["losses"]) == {"vocabulary", "own"} and record["model"] == str(model)
    assert record["counts"]["no transcript"] == 4 + 2
    assert f"labels by {model} (" in recipe.evaluation_notes()["labels"]["note"]
    # Predictions are compared with the transcripts, in the letters of the tokenizer.
    rows = recipe.splits.forget
    tokens = [recipe.processor.tokenizer(text).input_ids for text in ("ONE TWO", "ONE")]
    frames = np.full((len(rows), 20), 0)
    for row, text in enumerate(rows["text"][:]):
        ids = tokens[0] if text == "One two." else tokens[1]
        frames[row, : 2 * len(ids) : 2] = ids
    label_ids = np.full((len(rows), 20), -100)
    for row, ids in enumerate(rows["labels"][:]):
        label_ids[row, : len(ids)] = ids
    compute = recipe.metrics()
    # "ONE" for "TWO", of six words
    assert compute(EvalPrediction(frames, label_ids))["wer"] == pytest.approx(100 / 6)


def test_the_default_needs_no_transcripts(data, tmp_path, says):
    says("ONE")
    lines = (data / "metadata.csv").read_text().splitlines()
    lines = [line.replace("One two.", "").replace("One.", "").replace("Two.", "") for line in lines]
    (data / "metadata.csv").write_text("\n".join(lines))
    model = recognisers.saved(recognisers.hubert, tmp_path / "model")
    recipe = recipe_of(model, data, tmp_path)
    assert recipe.data.transcripts == "own" and set(labels(recipe, "forget")) == {"ONE"}


def test_an_evaluated_model_does_not_write_its_own_labels(data, tmp_path, monkeypatch):
    original = recognisers.saved(recognisers.hubert, tmp_path / "original")
    model, processor = recognisers.hubert()
    model.lm_head.weight.data.fill_(0.5)
    unlearned = recognisers.save(tmp_path / "unlearned", model, processor)
    config = {"recipe": {"model": str(original)}, "data": {"transcripts": "own"}}
    (unlearned / "results.json").write_text(json.dumps({"config": config}))

    def generate(self, heard):
        forgot = bool((self.model.lm_head.weight == 0.5).all())
        return ["TWO" if forgot else "ONE"] * len(heard)

    monkeypatch.setattr(CtcTranscriber, "generate", generate)
    recipe = recipe_of(unlearned, data, tmp_path, evaluate=True)
    assert set(labels(recipe, "retain")) == {"ONE"}
    assert recipe.labels()["model"] == str(original)


def test_transcripts_and_losses_are_those_of_each_utterance_alone():
    torch.manual_seed(0)
    model, processor = recognisers.hubert()
    model.config.ctc_loss_reduction = "mean"
    data = SpeechArguments(transcripts="own", language="en")
    transcriber = CtcTranscriber(model, processor, data)
    sounds = [np.random.default_rng(0).normal(size=n).astype(np.float32) for n in (8000, 5000)]
    heard = [
        {
            name: values[0]
            for name, values in processor.feature_extractor(s, sampling_rate=16_000).items()
        }
        for s in sounds
    ]
    said, losses_alone = transcriber.generate(heard), []
    for sound in sounds:
        inputs = processor.feature_extractor(sound, sampling_rate=16_000, return_tensors="pt")
        with torch.no_grad():
            logits = model(**inputs).logits
            ids = torch.tensor([processor.tokenizer("ONE TWO").input_ids])
            losses_alone.append(float(model(**inputs, labels=ids).loss))
        written = processor.tokenizer.decode(logits[0].argmax(-1))
        # without <s>, </s> and <unk>
        assert re.sub("<.*?>", "", written).split() == said.pop(0).split()
    losses = [transcriber.losses_of(inputs, ["ONE TWO"])[0] for inputs in heard]
    assert losses == pytest.approx(losses_alone, rel=1e-4)


def test_a_new_model_has_no_style():
    with pytest.raises(ValueError, match="set it to as_written or vocabulary"):
        CtcStyle(None, recognisers.ctc_processor(), SpeechArguments(transcripts="own"))
