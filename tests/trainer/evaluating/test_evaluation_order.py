"""Texts are generated in the order of their labels' lengths, with the numbers of the dataset's own
order."""

import datasets
import numpy as np
import pytest

from hf_unlearn.evaluation import evaluate_splits, features_of_batch, sample_features
from hf_unlearn.trainer.evaluating import sample_evaluation
from hf_unlearn.trainer.evaluating.evaluation_order import by_length
from tests.support.tiny import collate, make_trainer, tiny_whisper, utterances


@pytest.fixture
def rows() -> datasets.Dataset:
    return datasets.Dataset.from_list(
        [{name: value.tolist() for name, value in row.items()} for row in utterances(11, seed=4)]
    ).with_format("torch")


def test_every_number_is_that_of_the_datasets_own_order(rows, tmp_path, monkeypatch):
    """The place of a sample counts in this metric, as it does in a bootstrap."""

    def metrics(evaluated_samples):
        weights = np.arange(1, len(evaluated_samples.label_ids) + 1)
        tokens, labels = (
            part.clip(0).sum(1)
            for part in (evaluated_samples.predictions, evaluated_samples.label_ids)
        )
        return {"said": float(weights @ tokens), "labels": float(weights @ labels)}

    model = tiny_whisper(init_std=0.5)
    read = []

    def evaluated() -> tuple[dict, np.ndarray]:
        trainer = make_trainer(
            model,
            tmp_path,
            predict_with_generate=True,
            generation_max_length=12,
            per_device_eval_batch_size=3,
            collator=lambda batch: read.extend(len(r["labels"]) for r in batch) or collate(batch),
            arguments={"eval_dataset": {"test": rows}, "compute_metrics": metrics},
        )
        read.clear()
        results = evaluate_splits(trainer, trainer.eval_dataset)["test"]
        # Samples are also read before, to see whether padding matters.
        lengths = read[-len(rows) :]
        return results, trainer.predict(rows).predictions, lengths

    results, texts, lengths = evaluated()
    monkeypatch.setattr(sample_evaluation, "by_length", lambda dataset: None)
    expected, texts_before, lengths_before = evaluated()
    assert lengths == sorted(lengths_before, reverse=True) != lengths_before
    assert results.pop("loss") == pytest.approx(expected.pop("loss"), rel=1e-6)
    assert results == expected and np.array_equal(texts, texts_before)
    assert len(np.unique(texts, axis=0)) > 3


def test_logits_are_collected_beside_generated_texts(rows, tmp_path):
    trainer = make_trainer(
        tiny_whisper(init_std=0.5),
        tmp_path,
        predict_with_generate=True,
        per_device_eval_batch_size=3,
    )
    with (
        trainer.collecting_logits(features_of_batch) as collected,
        trainer.collecting_predictions() as predictions,
    ):
        output = trainer.predict(rows)
    assert np.array_equal(predictions["test"].predictions, output.predictions)
    assert np.array_equal(predictions["test"].label_ids, output.label_ids)
    expected = sample_features(trainer, rows)
    assert expected.keys() == collected["test"].keys()
    for name, values in expected.items():
        assert collected["test"][name] == pytest.approx(values, rel=1e-4), name
    # Outside of the context nothing is collected.
    collected.clear()
    trainer.predict(rows)
    assert collected == {}


def test_samples_whose_labels_have_no_length_keep_their_order(rows):
    assert by_length(rows).order[0] == int(np.argmax([len(row["labels"]) for row in rows]))
    assert by_length(list(rows)) is None
    assert by_length(rows.remove_columns("labels")) is None
    classes = rows.remove_columns("labels").add_column("labels", list(range(11)))
    assert by_length(classes) is None
