"""Tiny models and data that many tests share."""

import pytest
import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration, set_seed


MELS, FRAMES, VOCABULARY = 8, 100, 60


@pytest.fixture(autouse=True)
def _seeded():
    set_seed(0)
    torch.set_num_threads(2)


def tiny_whisper(**changes) -> WhisperForConditionalGeneration:
    config = {
        "vocab_size": VOCABULARY,
        "d_model": 16,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "max_source_positions": FRAMES // 2,
        "max_target_positions": 20,
        "num_mel_bins": MELS,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 3,
        "suppress_tokens": None,
        "begin_suppress_tokens": None,
        **changes,
    }
    return WhisperForConditionalGeneration(WhisperConfig(**config))


def utterances(n: int, seed: int = 0, longest: int = 9) -> list[dict]:
    """Random features with labels of different lengths (so that batches are padded)."""
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "input_features": torch.randn(MELS, FRAMES, generator=generator),
            "labels": torch.randint(4, VOCABULARY, (2 + (3 * i + seed) % (longest - 1),), generator=generator),
        }
        for i in range(n)
    ]


def collate(features: list[dict]) -> dict[str, torch.Tensor]:
    labels = [feature["labels"] for feature in features]
    return {
        "input_features": torch.stack([feature["input_features"] for feature in features]),
        "labels": torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100),
    }
