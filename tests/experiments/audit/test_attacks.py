"""The attacks of an audit, and where a speaker stands among strangers, computed by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset

from hf_unlearn.experiments.audit import DOORS, DoorUnavailable, Subject, attacks
from hf_unlearn.experiments.audit.examiner import ClassExaminer
from tests.experiments.audit.subjects import SETTINGS, Classifier, image_recipe


def with_losses(**splits: dict[str, list]) -> Subject:
    """A model of which only the losses of some rows are known."""
    rows = {name: Dataset.from_dict(columns) for name, columns in splits.items()}
    examiner = SimpleNamespace(splits=rows, judged_split="forget", group="speaker")
    recipe = SimpleNamespace(task="speakers", unseen_split="forget_test")
    subject = Subject("unlearned", None, examiner, recipe, SETTINGS)
    subject._features = {name: {"loss": np.array(one["loss"])} for name, one in splits.items()}
    return subject


def test_a_gradient_is_as_long_as_by_hand():
    """Of a softmax layer the gradient is (p - e_y) times (x, 1)."""
    torch.manual_seed(0)
    x, labels = torch.randn(7, 3), [0, 1, 0, 1, 0, 1, 0]
    splits = {"forget": (x[:3], labels[:3]), "forget_test": (x[3:], labels[3:])}
    recipe, model = image_recipe(splits), Classifier(3, 2)
    with torch.no_grad():
        errors = model(x, torch.tensor(labels))["logits"].softmax(-1)
        errors[range(7), labels] -= 1
    lengths = (errors.norm(dim=1) * (x.square().sum(1) + 1).sqrt()).numpy()
    examiner = ClassExaminer(recipe, model, 10)
    assert examiner.gradient_norms(model, examiner.splits["forget"]) == pytest.approx(lengths[:3])
    found = DOORS["gradient_norm"].measure(Subject("unlearned", model, examiner, recipe, SETTINGS))
    shorter = [ours < theirs for ours in lengths[:3] for theirs in lengths[3:]]
    assert found.value == pytest.approx(100 * np.mean(shorter))
    assert all(p.grad is None for p in model.parameters())


def test_distances_compare_utterances_that_are_equally_long(monkeypatch):
    """Those of `other` are longer by 1 s, but for two, of which each has a partner."""
    subject = with_losses(
        forget={"loss": [9.0, 1.0, 2.0, 9.0], "duration": [1.0, 2.0, 3.0, 4.0]},
        other={"loss": [4.0, 6.0, 0.0, 0.0, 0.0], "duration": [2.1, 2.95, 9.0, 10.0, 11.0]},
    )
    monkeypatch.setattr(attacks, "MIN_SAMPLES", 2)
    found = DOORS["distance_to_unseen"].measure(subject)
    # from {1, 2} to {4, 6}
    assert found.value == pytest.approx(3.5) and found.more == {"from": "other", "pairs": 2}
    # Too few pairs: all samples. From {1, 2, 9, 9} to {0, 0, 0, 4, 6}, by hand: 21/4 - 10/5.
    monkeypatch.setattr(attacks, "MIN_SAMPLES", 3)
    found = DOORS["distance_to_unseen"].measure(subject)
    assert found.value == pytest.approx(21 / 4 - 10 / 5) and found.more == {"from": "other"}


def test_a_speaker_stands_among_strangers():
    losses = {"x": [1.0], "y": [1.0, 3.0], "z": [4.0], "u": [5.0], "v": [0.5, 9.5]}
    strangers = {
        "loss": [loss for each in losses.values() for loss in each],
        "speaker": [name for name, each in losses.items() for _ in each],
    }
    forget = {"loss": [1.5, 2.5], "speaker": ["a", "a"]}
    subject = with_losses(forget=forget, other=strangers)
    # Of the means 1, 2, 4, 5 and 5 three are above 2, and one is equal.
    assert DOORS["loss_among_strangers"].measure(subject).value == pytest.approx(70)
    # Errors per word: 3 of 10, against 1 of 10, 1 of 2 (1 + 0 of 1 + 1), 1 of 1, 0 of 1, 1 of 5.
    errors = {
        "forget": ([1, 2], [4, 6]),
        "other": ([1, 1, 0, 1, 0, 1, 0], [10, 1, 1, 1, 1, 2, 3]),
    }
    names = {id(rows): name for name, rows in subject.examiner.splits.items()}
    subject.examiner.errors_of = lambda _, rows: tuple(map(np.array, errors[names[id(rows)]]))
    assert DOORS["errors_among_strangers"].measure(subject).value == pytest.approx(40)
    few = with_losses(forget=forget, other={"loss": [1.0, 2.0], "speaker": ["x", "y"]})
    with pytest.raises(DoorUnavailable, match="there are 2 speakers .* 5 are needed"):
        DOORS["loss_among_strangers"].measure(few)
