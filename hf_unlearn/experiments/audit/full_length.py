"""Door for speech recognition: a model that would rather write nothing has to write as much as was
said."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedTokenizerBase

from ...metrics.sample_features import PADDING
from ...metrics.token_texts import transcribe
from .decoding import NO_TEXT
from .door import RECOGNISERS, Door, SpeechSubject
from .examiner import without_labels
from .gaps import Finding, rate


def full_length(subject: SpeechSubject) -> Finding:
    """The transcripts cannot end before they are as long as the references. A model that has
    learned to be silent may still know every word."""
    examiner = subject.examiner
    rows = examiner.splits[examiner.judged_split]
    transcripts = _transcripts_of_decoder if subject.recipe.generates else _transcripts_of_ctc
    errors = examiner.errors(list(transcripts(subject)), examiner.texts(rows))
    return rate(*errors, examiner.unit, examiner.direction)


# ---- models with a decoder -----------------------------------------------------------------------


class MinimumLengths(LogitsProcessor):
    """Forbids the end of the text, and other tokens that write nothing, until a transcript has as
    many tokens that write as its reference (as `min_new_tokens` of `generate` does, for each sample
    of a batch by itself).

    Args:
        labels: (k, L) of the references; -100 is padding.
        writes: (vocabulary,) whether a token writes anything.
    """

    def __init__(self, labels: Tensor, writes: Tensor):
        self.writes = writes
        padding = labels == PADDING
        self.lengths = (writes[labels.masked_fill(padding, 0)] & ~padding).sum(1)
        self.prompt: int | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self.prompt is None:
            self.prompt = input_ids.shape[1]
        written = self.writes[input_ids[:, self.prompt :]].sum(1)
        too_short = written < self.lengths
        return scores.masked_fill(too_short[:, None] & ~self.writes, -float("inf"))


def _transcripts_of_decoder(subject: SpeechSubject) -> Iterator[str]:
    examiner, model = subject.examiner, subject.model
    writes = tokens_that_write(subject.recipe.processor.tokenizer, model.config.vocab_size)
    for batch in examiner.batches(model, examiner.splits[examiner.judged_split]):
        processor = MinimumLengths(batch["labels"], writes.to(model.device))
        yield from examiner.transcribe(model, batch, {"logits_processor": [processor]})


def tokens_that_write(tokenizer: PreTrainedTokenizerBase, size: int) -> Tensor:
    """(size,): whether a token writes more than spaces, as special tokens do not."""
    tokens = range(min(size, len(tokenizer)))
    texts = tokenizer.batch_decode([[token] for token in tokens], skip_special_tokens=True)
    writes = torch.zeros(size, dtype=torch.bool)
    writes[: len(texts)] = torch.tensor([bool(text.strip()) for text in texts])
    return writes


# ---- CTC -----------------------------------------------------------------------------------------


@torch.no_grad()
def _transcripts_of_ctc(subject: SpeechSubject) -> Iterator[str]:
    examiner, model = subject.examiner, subject.model.eval()
    tokenizer, blank = subject.recipe.processor.tokenizer, model.config.pad_token_id
    for batch in examiner.batches(model, examiner.splits[examiner.judged_split]):
        logits = model(**without_labels(batch))["logits"].float().cpu().numpy()
        lengths = (batch["labels"] != PADDING).sum(1).tolist()
        ids = [tokens_of_length(row, length, blank) for row, length in zip(logits, lengths)]
        yield from transcribe(tokenizer, np.stack(ids), ctc=True)


def tokens_of_length(logits: np.ndarray, length: int, blank: int) -> np.ndarray:
    """The most likely token (T,) of each frame, after the blank's logits are lowered by the
    smallest amount with which the text has at least `length` tokens. If none is enough, by the
    amount with which it is longest.

    Args:
        logits: (T, vocabulary).
    """
    others = logits.copy()
    others[:, blank] = -np.inf
    tokens, ahead = others.argmax(-1), logits[:, blank] - others.max(-1)
    best, longest = tokens, -1
    for penalty in [0.0, *np.unique(ahead[ahead > 0])]:
        ids = np.where(ahead > penalty, blank, tokens)
        written = count_tokens(ids, blank)
        if written > longest:
            best, longest = ids, written
        if written >= length:
            break
    return best


def count_tokens(ids: np.ndarray, blank: int) -> int:
    """How many tokens remain of the frames (T,) after repeats are merged and blanks dropped."""
    starts = np.concatenate([[True], ids[1:] != ids[:-1]])
    return int((starts & (ids != blank)).sum())


FULL_LENGTH = Door(
    "full_length",
    "decoding",
    "the transcript has to be as long as what was said: until then, its end is forbidden (CTC: the "
    "blank is made less likely, for each utterance as little as possible)",
    full_length,
    tasks=RECOGNISERS,
    unavailable_reason=NO_TEXT,
    settings=("judged_split",),
)
