"""The files that other runtimes read of a Whisper, which transformers 5 no longer writes."""

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase, WhisperProcessor

from ...files import written_whole

END_OF_TEXT = "<|endoftext|>"


def write_deployment_files(processor: Any, folder: Path) -> None:
    """Writes what faster-whisper and whisper.cpp need beside the model, for a WhisperProcessor.

    - preprocessor_config.json: faster-whisper would otherwise compute 80 mel bands, which is wrong
      for the large models.
    - vocab.json and added_tokens.json: the converter of whisper.cpp reads both. As in the published
      models, the words and <|endoftext|> are in the first, the other special tokens in the second.
    - normalizer.json, where the tokenizer has the spellings of Whisper's English normaliser.
    """
    if not isinstance(processor, WhisperProcessor):
        return
    processor.feature_extractor.save_pretrained(folder)
    tokenizer = processor.tokenizer
    words, added = vocabularies(tokenizer)
    files = {"vocab.json": words, "added_tokens.json": added}
    if getattr(tokenizer, "english_spelling_normalizer", None):
        files["normalizer.json"] = tokenizer.english_spelling_normalizer
    for name, content in files.items():
        with written_whole(folder / name) as partial:
            text = json.dumps(content, indent=2, ensure_ascii=False)
            partial.write_text(text + "\n", encoding="utf-8")


def vocabularies(tokenizer: PreTrainedTokenizerBase) -> tuple[dict[str, int], dict[str, int]]:
    """{token: id} of the words, with <|endoftext|>, and of the other special tokens, by id."""
    special = set(tokenizer.added_tokens_encoder) - {END_OF_TEXT}
    ids = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    words = {token: number for token, number in ids if token not in special}
    return words, {token: number for token, number in ids if token in special}
