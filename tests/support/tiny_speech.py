"""The sizes of tiny models of waveforms (wav2vec 2.0, HuBERT, WavLM), their batches and
tokenizer."""

import json
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import Wav2Vec2CTCTokenizer

WIDTH = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
# Two convolutions instead of seven.
WAVEFORMS = {
    **WIDTH,
    "num_hidden_layers": 1,
    "conv_dim": (8, 8),
    "conv_kernel": (10, 8),
    "conv_stride": (10, 8),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 8,
    "vocab_size": 20,
    "pad_token_id": 0,
}
DROPOUTS = (
    "hidden_dropout",
    "activation_dropout",
    "attention_dropout",
    "feat_proj_dropout",
    "final_dropout",
    "layerdrop",
    "mask_time_prob",
)


def waveform_sizes(dropout: bool = False, **changes) -> dict:
    """The arguments of a configuration.

    Args:
        dropout: keep the rates of dropout and of masked frames that transformers sets.
    """
    rates = {} if dropout else dict.fromkeys(DROPOUTS, 0.0)
    return {**WAVEFORMS, **rates, **changes}


def letter_tokenizer(folder: Path, *tokens: str) -> Wav2Vec2CTCTokenizer:
    """A tokenizer of CTC models with these tokens, whose file is written into the folder."""
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    return Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))


def collate_padded(rows: list[dict]) -> dict[str, torch.Tensor]:
    """A padded batch without an attention mask."""
    return {
        name: pad_sequence([row[name] for row in rows], batch_first=True, padding_value=value)
        for name, value in (("input_values", 0.0), ("labels", -100))
    }


def collate_masked(rows: list[dict]) -> dict[str, torch.Tensor]:
    lengths = torch.tensor([len(row["input_values"]) for row in rows])
    mask = (torch.arange(max(lengths)) < lengths[:, None]).long()
    return {**collate_padded(rows), "attention_mask": mask}
