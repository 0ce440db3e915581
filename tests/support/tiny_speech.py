"""Speech of noise, and the sizes, batches and tokenizers of tiny models of waveforms (wav2vec 2.0,
HuBERT, WavLM)."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2ForCTC

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


def write_noise(
    folder: Path, rows: Iterable[tuple[str, str, str, str]], lengths: tuple[int, int] = (8000, 8001)
) -> Path:
    """Writes noise as recordings, and who says what in which split in metadata.csv.

    Args:
        rows: (file name, speaker, text, split).
        lengths: the fewest samples, at 16 kHz, and one more than the most.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines, chance = ["file_name,speaker,text,split"], np.random.default_rng(0)
    for row in rows:
        sound = 0.1 * chance.standard_normal(int(chance.integers(*lengths)))
        soundfile.write(folder / row[0], sound, 16_000)
        lines.append(",".join(row))
    (folder / "metadata.csv").write_text("\n".join(lines))
    return folder


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


def tiny_wav2vec2(norm: str) -> Wav2Vec2ForCTC:
    sizes = waveform_sizes(feat_extract_norm=norm, conv_kernel=(4, 4), conv_stride=(4, 2))
    return Wav2Vec2ForCTC(Wav2Vec2Config(**sizes, ctc_loss_reduction="mean"))


def voices(*lengths: int) -> list[dict]:
    return [
        {"input_values": torch.randn(n), "labels": torch.randint(1, 8, (2 + i % 2,))}
        for i, n in enumerate(lengths)
    ]
