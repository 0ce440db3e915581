"""The order of retain samples is a pure function of seed, step and process."""

from itertools import islice

import pytest

from hf_unlearn.trainer.batches.retain_batches import RetainSampler


def test_every_epoch_sees_every_sample_once_in_a_new_order():
    sampler = RetainSampler(size=12, batch_size=4, seed=3)
    epochs = [
        [i for step in range(e * 3, e * 3 + 3) for i in sampler.batch(step)] for e in range(2)
    ]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(12))
    assert epochs[0] != epochs[1]


def test_a_later_start_continues_the_same_order():
    straight = list(islice(RetainSampler(10, 3, seed=0), 9))
    assert list(islice(RetainSampler(10, 3, seed=0, first_step=5), 4)) == straight[5:]
    assert list(islice(RetainSampler(10, 3, seed=1), 9)) != straight


def test_two_processes_share_the_batch_of_one():
    for step in range(7):
        together = RetainSampler(20, 8, seed=0).batch(step)
        parts = [
            RetainSampler(20, 4, seed=0, process=rank, processes=2).batch(step) for rank in range(2)
        ]
        assert parts[0] + parts[1] == together


def test_a_small_retain_set_is_used_whole_in_every_step():
    assert sorted(RetainSampler(3, 16, seed=0).batch(5)) == [0, 1, 2]
    parts = [RetainSampler(3, 16, seed=0, process=rank, processes=2).batch(5) for rank in range(2)]
    assert sorted(parts[0] + parts[1]) == [0, 1, 2]
    with pytest.raises(ValueError, match="has 1 samples, but there are 2 processes"):
        RetainSampler(1, 4, seed=0, processes=2)
