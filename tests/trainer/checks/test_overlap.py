"""A retain set that holds samples to forget is named, where that can be told cheaply."""

import logging

import datasets
import pytest
import torch
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from hf_unlearn.trainer.checks import overlap
from hf_unlearn.trainer.checks.overlap import shared_samples
from tests.support.tiny import make_trainer, tiny_whisper, utterances


def samples(*seeds):
    return [{"x": torch.full((2, 3), float(seed)), "labels": seed} for seed in seeds]


def rows(*numbers, **columns):
    return datasets.Dataset.from_dict(
        {"x": [[n, n + 1] for n in numbers], **{k: v(numbers) for k, v in columns.items()}}
    )


TABLE, TENSORS = rows(*range(10)), TensorDataset(torch.arange(10))
SAME = samples(0, 1, 2)


class MapStyle(torch.utils.data.Dataset):
    """Samples on access, perhaps with random noise."""

    def __init__(self, samples, noisy=False):
        self.samples, self.noisy = samples, noisy

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, place):
        noise = torch.rand(3) if self.noisy else 0
        return {k: noise if k == "noise" else v for k, v in self.samples[place].items()}


class Broken(MapStyle):
    def __init__(self):
        super().__init__([{}])

    def __getitem__(self, place):
        torch.rand(1)
        raise OSError("broken")


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
        # the same samples in datasets of different kinds
        (TensorDataset(torch.arange(4)), TensorDataset(torch.arange(2, 9)), 2),
        (ConcatDataset([TENSORS, Subset(TENSORS, [1])]), Subset(TENSORS, [1, 4]), 2),
        (SAME, MapStyle(samples(5, 2)), 1),
        (MapStyle(SAME), MapStyle(samples(3, 4)), 0),
        (
            MapStyle([{"noise": None, **row} for row in SAME], noisy=True),
            MapStyle([{"noise": None, **row} for row in samples(1)], noisy=True),
            1,
        ),
        # rows without ids, with further columns of one side, or with labels alone in common
        (rows(1, 2, who=lambda n: ["a", "b"]), rows(2, 3), 1),
        (rows(1, 2, label=lambda n: [7, 7]).remove_columns("x"), rows(2, label=lambda n: [7]), 0),
        (rows(*range(200)), rows(*range(150, 300)), 50),
        (rows(1, 2, id=lambda n: [0, 1]), rows(2, 4, id=lambda n: [0, 1]), 1),
        (None, SAME, 0),
    ],
)
def test_shared_samples_are_counted(forget, retain, shared):
    assert shared_samples(forget, retain) == shared


def test_the_trainer_warns_of_shared_samples(tmp_path, caplog):
    forget = utterances(3)
    with caplog.at_level(logging.WARNING):
        make_trainer(
            tiny_whisper(), tmp_path, forget=forget, retain=[*utterances(2, seed=9), forget[1]]
        )
        assert "1 samples of retain_dataset are in forget_dataset too" in caplog.text
    with pytest.raises(ValueError, match="all 2 samples of retain_dataset are in forget_dataset"):
        overlap.warn_of_overlap(forget, forget[1:])


@pytest.mark.parametrize(
    "limit, forget, reason",
    [
        ("MAX_BYTES", TABLE, "more than 0 MiB"),
        ("MAX_SAMPLES", SAME, "more than 0 samples"),
        ("MAX_TIME", SAME, "takes longer than 0 s"),
        (None, MapStyle([{}]), "a stream"),
        (None, Broken(), "sample 0 cannot be read"),
    ],
)
def test_the_log_says_where_it_is_too_much_work(limit, forget, reason, monkeypatch):
    retain = rows(1, 2) if limit == "MAX_BYTES" else samples(1)
    if reason == "a stream":
        retain = rows(1).to_iterable_dataset()
    if limit:
        monkeypatch.setattr(overlap, limit, 0)
    said = []
    monkeypatch.setattr(overlap.logger, "info", said.append)
    state = torch.get_rng_state()
    overlap.warn_of_overlap(forget, retain)
    assert len(said) == 1 and reason in said[0]
    assert torch.equal(torch.get_rng_state(), state)
