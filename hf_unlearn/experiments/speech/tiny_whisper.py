"""Builds a small Whisper model and processor from scratch; plain `from_pretrained` and `generate`
work with them."""

from collections.abc import Iterable

from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    AddedToken,
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)
from transformers.models.whisper.tokenization_whisper import LANGUAGES, TASK_IDS

# <|notimestamps|> must be last: Whisper's decoding treats every id above it as a time stamp.
SPECIAL_TOKENS = ("<|endoftext|>", "<|startoftranscript|>", "<|startofprev|>", "<|notimestamps|>")
# The encoder's positions: 100 mel frames, halved by the second convolution.
POSITIONS_PER_SECOND = 50


def build_word_tokenizer(texts: Iterable[str]) -> WhisperTokenizer:
    """Builds a Whisper tokenizer with one token per word of `texts`, for small vocabularies.

    Each word is merged letter by letter from its start, so its prefixes are in the vocabulary too.
    A word that is not in `texts` becomes its longest known prefix and single letters.
    """
    split = ByteLevel(add_prefix_space=True).pre_tokenize_str
    words = sorted({word for text in texts for word, _ in split(text)})
    letters = sorted({letter for word in words for letter in word})
    prefixes = sorted({word[:end] for word in words for end in range(2, len(word) + 1)})
    # Sorting puts each prefix before the words and prefixes that begin with it.
    merges = [(prefix[:-1], prefix[-1]) for prefix in prefixes]
    vocab = {token: number for number, token in enumerate([*letters, *prefixes, *SPECIAL_TOKENS])}
    special = [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    return WhisperTokenizer(vocab, merges, add_prefix_space=True, additional_special_tokens=special)


def build_processor(tokenizer: WhisperTokenizer, chunk_length: int) -> WhisperProcessor:
    """Joins a tokenizer with a feature extractor that pads or cuts audio to `chunk_length` seconds
    instead of Whisper's 30."""
    # As in every published Whisper.
    tokenizer.pad_token = tokenizer.eos_token
    return WhisperProcessor(WhisperFeatureExtractor(chunk_length=chunk_length), tokenizer)


def build_generation_config(
    tokenizer: WhisperTokenizer, max_length: int, language: str | None, task: str | None
) -> GenerationConfig:
    """Says how `generate` prompts the decoder: <|startoftranscript|> [language] [task]
    <|notimestamps|>."""
    ids = tokenizer.convert_tokens_to_ids
    of_language = {}
    if language is not None:
        languages = (f"<|{code}|>" for code in LANGUAGES)
        of_language = {
            "lang_to_id": {token: ids(token) for token in languages if token in tokenizer.vocab},
            "task_to_id": {name: ids(f"<|{name}|>") for name in TASK_IDS},
            "language": language,
            "task": task,
        }
    return GenerationConfig(
        max_length=max_length,
        decoder_start_token_id=ids("<|startoftranscript|>"),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        no_timestamps_token_id=ids("<|notimestamps|>"),
        return_timestamps=False,
        is_multilingual=language is not None,
        **of_language,
    )


def build_model(
    processor: WhisperProcessor,
    *,
    d_model: int,
    layers: int,
    heads: int,
    init_std: float = 0.02,
    max_target_positions: int,
    language: str | None = None,
    task: str | None = None,
) -> WhisperForConditionalGeneration:
    """Builds a randomly initialised Whisper with `layers` encoder and `layers` decoder layers for
    this processor."""
    tokenizer, extractor = processor.tokenizer, processor.feature_extractor
    generation_config = build_generation_config(tokenizer, max_target_positions, language, task)
    model = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=len(tokenizer),
            num_mel_bins=extractor.feature_size,
            d_model=d_model,
            encoder_layers=layers,
            decoder_layers=layers,
            encoder_attention_heads=heads,
            decoder_attention_heads=heads,
            encoder_ffn_dim=4 * d_model,
            decoder_ffn_dim=4 * d_model,
            init_std=init_std,
            max_source_positions=POSITIONS_PER_SECOND * extractor.chunk_length,
            max_target_positions=max_target_positions,
            decoder_start_token_id=generation_config.decoder_start_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            begin_suppress_tokens=None,
        )
    )
    model.generation_config = generation_config
    return model
