"""A retain set that holds samples to forget is named, where that can be told cheaply."""

import logging

import datasets
import pytest
import torch
from torch.utils.data import Subset, TensorDataset

from hf_unlearn.trainer.overlap import shared_samples
from tests.tiny import make_trainer, tiny_whisper, utterances


def samples(*seeds):
    return [{"x": torch.full((2, 3), float(seed)), "labels": seed} for seed in seeds]


def rows(*numbers, **columns):
    return datasets.Dataset.from_dict(
        {"x": [[n, n + 1] for n in numbers], **{k: v(numbers) for k, v in columns.items()}}
    )


TABLE, TENSORS = rows(*range(10)), TensorDataset(torch.arange(10))
SAME = samples(0, 1, 2)


@pytest.mark.parametrize(
    "forget, retain, shared",
    [
        (SAME, SAME, 3),
        (SAME, samples(2, 3, 1), 2),
        (SAME, samples(3, 4), 0),
        (SAME, [SAME[0], *samples(7)], 1),
        (TENSORS, TENSORS, 10),
        (Subset(TENSORS, [1, 2, 3]), Subset(TENSORS, [3, 4]), 1),
        (Subset(Subset(TENSORS, [5, 6, 7]), [0, 2]), Subset(TENSORS, [6, 7]), 1),
        (Subset(TENSORS, [1, 2]), Subset(TENSORS, [3, 4]), 0),
        (TABLE.select([1, 2, 3]), TABLE.select([3, 4, 2]), 2),
        (TABLE.select([1, 2]), TABLE.select([3, 4]), 0),
        (rows(1, 2, id=list), rows(2, 3, id=list), 1),
        # ids that are row numbers of different data
        (rows(1, 2, id=lambda n: [0, 1]), rows(3, 4, id=lambda n: [0, 1]), 0),
        # no transform is called
        (rows(1, 2).with_transform(lambda batch: 1 / 0), rows(2, 3), 1),
        (Subset(TABLE, [1, 2]), rows(2, 7), 1),
        (rows(1).to_iterable_dataset(), rows(1), 0),
        (None, SAME, 0),
    ],
)  # fmt: skip
def test_shared_samples_are_counted(forget, retain, shared):
    assert shared_samples(forget, retain) == shared


def test_the_trainer_says_so(tmp_path, caplog):
    forget = utterances(3)
    with caplog.at_level(logging.WARNING):
        make_trainer(
            tiny_whisper(), tmp_path, forget=forget, retain=[*utterances(2, seed=9), forget[1]]
        )
        assert "1 samples of retain_dataset are in forget_dataset too" in caplog.text
