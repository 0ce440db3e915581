"""Turns transcripts into label ids, and finds those that a model cannot learn."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, ProcessorMixin, WhisperTokenizer

# What to do about a transcript that the model cannot learn.
LABEL_REMEDY = "correct it, or pass skip_bad_labels to leave it out"


def label_ids(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    language: str | None = None,
    task: str | None = None,
    end_token: int | None = None,
) -> list[list[int]]:
    """The label ids of each text, special tokens included.

    Args:
        language, task: prompt tokens of Whisper's tokenizer.
        end_token: closes the labels of a tokenizer that does not do it itself (Moonshine's).

    Raises:
        ValueError: a prompt for another tokenizer than Whisper's.
    """
    if language is not None or task is not None:
        if not isinstance(tokenizer, WhisperTokenizer):
            raise ValueError(
                "language and task are prompt tokens of Whisper's tokenizer, and "
                f"{type(tokenizer).__name__} has none: leave both out"
            )
        tokenizer.set_prefix_tokens(language=language, task=task)
    labels = tokenizer(list(texts)).input_ids
    if end_token is None:
        return labels
    return [ids if ids[-1:] == [end_token] else [*ids, end_token] for ids in labels]


def complaints(
    texts: Sequence[str],
    labels: Sequence[list[int]],
    tokenizer: PreTrainedTokenizerBase,
    longest: int | None,
) -> dict[int, str]:
    """What is wrong with labels, by their numbers: an empty transcript, characters that the
    tokenizer does not have, or more than `longest` tokens."""
    words = tokenizer(list(texts), add_special_tokens=False).input_ids
    problems = {}
    for row, (text, ids, word) in enumerate(zip(texts, labels, words)):
        if not text.strip() or not word:
            problems[row] = f"has an empty transcript, {text!r}: leave it out of the data"
        elif unknown := unknown_parts(text, word, tokenizer):
            problems[row] = (
                f"has a transcript, {text!r}, with characters or words unknown to the "
                f"tokenizer: {' '.join(map(repr, unknown))}; {_known_case(tokenizer)}{LABEL_REMEDY}"
            )
        elif longest is not None and len(ids) > longest:
            problems[row] = (
                f"has {len(ids)} label tokens, over the {longest} that the model takes: leave it "
                "out of the data, or cut it in two"
            )
    return problems


@dataclass
class BatchLabeller:
    """Labels rows batch by batch, with the arguments of `prepare`.

    Called with a batch and the numbers of its rows, it returns labels, texts, and {index in the
    batch: what is wrong}.
    """

    processor: ProcessorMixin
    max_label_length: int | None
    language: str | None
    task: str | None
    label_texts: Sequence[str] | None
    labels: Sequence[int] | None
    end_token: int | None

    def __call__(
        self, batch: dict[str, list], rows: list[int]
    ) -> tuple[list, list[str], dict[int, str]]:
        if self.labels is not None:
            return [self.labels[row] for row in rows], batch["text"], {}
        label_texts = batch["text"]
        if self.label_texts is not None:
            label_texts = [self.label_texts[row] for row in rows]
        tokenizer, prompt = self.processor.tokenizer, {"language": self.language, "task": self.task}
        labels = label_ids(label_texts, tokenizer, end_token=self.end_token, **prompt)
        problems = complaints(label_texts, labels, tokenizer, self.max_label_length)
        texts = [
            text if text.strip() else label.strip()
            for text, label in zip(batch["text"], label_texts)
        ]
        return labels, texts, problems

    def settings(self) -> list:
        """What the labels depend on, besides the rows."""
        tokenizer = getattr(self.processor, "tokenizer", None)
        vocabulary = None if tokenizer is None else tokenizer.get_vocab()
        options = [self.max_label_length, self.language, self.task, self.end_token]
        return [vocabulary, *options, self.label_texts, self.labels]


def unknown_parts(text: str, ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The characters of a text, or else the words, that its tokenizer turns into its token for the
    unknown.

    Args:
        ids: the text's tokens, without those that begin and end labels.
    """
    unknown = tokenizer.unk_token_id
    # Byte-level tokenizers know everything. Whisper's gives its end token as the unknown one.
    if unknown is None or unknown == tokenizer.eos_token_id or unknown not in ids:
        return []

    def is_unknown(part: str) -> bool:
        return unknown in tokenizer(part, add_special_tokens=False).input_ids

    characters = sorted(set(text) - {" "})
    words = sorted(set(text.split()))
    return list(filter(is_unknown, characters)) or list(filter(is_unknown, words)) or [text]


def _known_case(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hint where the tokenizer has letters of one case only."""
    special = set(tokenizer.all_special_tokens)
    letters = "".join(token for token in tokenizer.get_vocab() if token not in special)
    for case, folded in (("upper", letters.upper()), ("lower", letters.lower())):
        if letters == folded and letters.upper() != letters.lower():
            return f"its letters are in {case} case; "
    return ""


def ctc_complaints(
    rows: Dataset, inputs: Sequence[str], frames_of: Callable[[int], int]
) -> dict[int, str]:
    """Which rows have CTC labels that do not fit into the model's frames, by their numbers.

    A label needs a frame for each token, and one for the blank between equal neighbours. If there
    are too few, the loss is infinite.

    Args:
        inputs: the columns of the model's inputs.
        frames_of: gives the model's number of frames for the length of an input.
    """
    problems = {}
    for row, (ids, length) in enumerate(zip(rows["labels"][:], input_lengths(rows, inputs))):
        if complaint := ctc_complaint(ids, length, frames_of):
            problems[row] = complaint
    return problems


def ctc_complaint(ids: list[int], length: int, frames_of: Callable[[int], int]) -> str | None:
    """What is wrong with CTC labels that do not fit into the frames of an input of this length."""
    needed = len(ids) + sum(a == b for a, b in itertools.pairwise(ids))
    frames = max(0, frames_of(length))
    if needed <= frames:
        return None
    return (
        f"has labels that need {needed} frames, but its audio gives the model {frames}: "
        f"{LABEL_REMEDY}"
    )


def input_lengths(rows: Dataset, inputs: Sequence[str]) -> list[int]:
    """The lengths of the rows' inputs, in samples or frames, by their attention masks if there are
    any."""
    table = rows.with_format("arrow")[:]
    if "attention_mask" in inputs:
        return [pc.sum(mask.values.cast(pa.int64())).as_py() for mask in table["attention_mask"]]
    column = table[inputs[0]]
    # Tables are stored as lists in a type of their own.
    chunks = [c.storage if isinstance(c, pa.ExtensionArray) else c for c in column.chunks]
    return [length for chunk in chunks for length in pc.list_value_length(chunk).to_pylist()]
