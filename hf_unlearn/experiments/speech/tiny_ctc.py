"""Builds a small CTC recogniser and its processor from scratch; plain `from_pretrained` and
`pipeline` work with them."""

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path

from transformers import (
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Wav2Vec2BertForCTC,
    Wav2Vec2BertProcessor,
    Wav2Vec2CTCTokenizer,
)

# The first one is CTC's blank. "|" stands for the space between words.
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>", "|")


def build_character_tokenizer(texts: Iterable[str]) -> Wav2Vec2CTCTokenizer:
    """Builds a CTC tokenizer with one token for every character of `texts`."""
    characters = sorted({character for text in texts for character in text} - {" ", "|"})
    vocabulary = {token: number for number, token in enumerate([*SPECIAL_TOKENS, *characters])}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.json"
        path.write_text(json.dumps(vocabulary), encoding="utf-8")
        return Wav2Vec2CTCTokenizer(path)


def build_processor(tokenizer: Wav2Vec2CTCTokenizer) -> Wav2Vec2BertProcessor:
    """Joins a tokenizer with an extractor of filterbanks: 50 frames per second, each of two windows
    of 80 mel bins."""
    return Wav2Vec2BertProcessor(SeamlessM4TFeatureExtractor(), tokenizer)


def build_model(
    processor: Wav2Vec2BertProcessor, *, d_model: int, layers: int, heads: int, dropout: float
) -> Wav2Vec2BertForCTC:
    """Builds a randomly initialised wav2vec2-BERT for this processor.

    It reads filterbanks, so that it learns from little speech, and its loss does not depend on
    padding. It has neither SpecAugment nor LayerDrop, which are for large models.
    """
    tokenizer = processor.tokenizer
    config = Wav2Vec2BertConfig(
        vocab_size=len(tokenizer),
        feature_projection_input_dim=160,
        hidden_size=d_model,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * d_model,
        conv_depthwise_kernel_size=15,
        hidden_dropout=dropout,
        activation_dropout=dropout,
        attention_dropout=dropout,
        feat_proj_dropout=0.0,
        final_dropout=dropout,
        conformer_conv_dropout=dropout,
        layerdrop=0.0,
        apply_spec_augment=False,
        ctc_loss_reduction="mean",
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return Wav2Vec2BertForCTC(config)
