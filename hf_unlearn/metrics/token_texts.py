"""Texts of token ids: of labels, of generated ids, and of what a CTC model says in its frames."""

import inspect
import itertools
from collections.abc import Iterable

import numpy as np
from transformers import PreTrainedTokenizerBase

from .sample_features import PADDING


def transcribe(
    tokenizer: PreTrainedTokenizerBase, predictions: np.ndarray, *, ctc: bool
) -> list[str]:
    """Texts of generated ids (n, T), or of a CTC model's ids (n, frames) or logits (n, frames,
    vocabulary); -100 is padding.

    Raises:
        ValueError: generated ids are needed, but these are scores.
    """
    predictions = np.asarray(predictions)
    if not ctc:
        return decode(tokenizer, predictions)
    if predictions.ndim == 3:
        # frames that Trainer has padded
        padding = (predictions == PADDING).all(-1)
        predictions = np.where(padding, PADDING, predictions.argmax(-1))
    # Repeats are merged before blanks are dropped: the blank between both l keeps "hello" from
    # becoming "helo".
    merged = [[token for token, _ in itertools.groupby(row)] for row in predictions.tolist()]
    return [text_of(tokenizer, row) for row in merged]


def groups_tokens(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer can merge repeats when it decodes, as only those of CTC do."""
    transformers_own = isinstance(tokenizer, PreTrainedTokenizerBase)
    return transformers_own and "group_tokens" in inspect.signature(tokenizer._decode).parameters


def decode(tokenizer: PreTrainedTokenizerBase, ids: np.ndarray) -> list[str]:
    """Texts of (n, T) token ids; -100 is padding.

    Raises:
        ValueError: the ids have another shape.
    """
    ids = np.asarray(ids)
    if ids.ndim != 2:
        raise ValueError(
            f"token ids of shape (utterances, tokens) are needed, but these have {ids.shape}: "
            "scores instead of generated ids? Set predict_with_generate=True"
        )
    return [text_of(tokenizer, row) for row in ids.tolist()]


def text_of(tokenizer: PreTrainedTokenizerBase, ids: Iterable[int]) -> str:
    """The text of the token ids of a label; -100 is padding, and repeats are not merged."""
    options = {"group_tokens": False} if groups_tokens(tokenizer) else {}
    tokens = [token for token in ids if token != PADDING]
    # It gives a list for several texts only.
    return tokenizer.decode(tokens, skip_special_tokens=True, **options)  # type: ignore[return-value]
