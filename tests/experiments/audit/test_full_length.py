"""The door `full_length`, against slow obvious references."""

import itertools

import numpy as np
import pytest
import torch

from hf_unlearn.experiments.audit.full_length import (
    MinimumLengths,
    tokens_of_length,
    tokens_that_write,
)
from hf_unlearn.experiments.speech.tiny_whisper import build_word_tokenizer


def test_special_tokens_and_spaces_write_nothing():
    tokenizer = build_word_tokenizer(["red", "4", ",", "\u3000"])
    writes = tokens_that_write(tokenizer, len(tokenizer) + 3)
    texts = [tokenizer.decode([token]) for token in range(len(tokenizer))]
    written = {text.strip() for text, one in zip(texts, writes) if one}
    assert {"red", "4", ","} <= written and "" not in written, written
    assert not writes[tokenizer.all_special_ids].any() and not writes[len(tokenizer) :].any()


def merged(ids: list[int]) -> list[int]:
    return [token for token, _ in itertools.groupby(ids) if token != 0]


@pytest.mark.parametrize("length", [0, 2, 4, 7, 30])
def test_the_blank_is_lowered_as_little_as_possible(length):
    logits = np.random.default_rng(length).normal(size=(12, 5)).astype(np.float32)
    logits[:, 0] += 2
    found = merged(tokens_of_length(logits, length, blank=0).tolist())
    best = []
    for penalty in np.arange(0, 12, 0.001):
        lowered = logits.copy()
        lowered[:, 0] -= penalty
        tokens = merged(lowered.argmax(-1).tolist())
        best = tokens if len(tokens) > len(best) else best
        if len(best) >= length:
            break
    assert found == best
    assert len(found) >= length or length == 30


def test_the_text_cannot_end_before_it_is_long_enough():
    # 0: end, 1: a time stamp, 2 and 3: words
    writes = torch.tensor([False, False, True, True])
    labels = torch.tensor([[2, 1, 3, 0], [3, 0, -100, -100]])
    processor = MinimumLengths(labels, writes)
    scores = torch.zeros(2, 4)
    prompt = torch.tensor([[3, 3], [3, 3]])
    free = torch.zeros(4)
    forced = torch.tensor([-torch.inf, -torch.inf, 0, 0])
    assert torch.equal(processor(prompt, scores), torch.stack([forced, forced]))
    # One word is enough for the second, but not for the first.
    written = torch.tensor([[3, 3, 2], [3, 3, 2]])
    assert torch.equal(processor(written, scores), torch.stack([forced, free]))
    written = torch.tensor([[3, 3, 2, 2], [3, 3, 2, 0]])
    assert torch.equal(processor(written, scores), torch.stack([free, free]))
