"""Word error rate, character error rate and accuracy of a whole set in percent, with confidence
intervals."""

import shutil
import tempfile
import weakref
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import datasets
import evaluate
import jiwer
import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import f1_score

# How many times smaller a looping text becomes.
LOOP_COMPRESSION = 2.4
# Number of resampled indices that are in memory at once (32 MiB).
BLOCK = 2**22


def word_errors(
    predictions: Sequence[str], references: Sequence[str], *, allow_empty: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Counts the substituted, deleted and inserted words of each utterance, and the words of its
    reference.

    Args:
        predictions: n texts, already normalised. A text may be empty.
        references: n texts, already normalised.
        allow_empty: count the words predicted for an empty reference as insertions, instead of
            raising an error.

    Returns:
        Errors (n,) and words (n,), both int64.

    Raises:
        ValueError: there are not as many predictions as references, or a reference is empty. The
            message gives its index.
    """
    return _errors(jiwer.process_words, predictions, references, allow_empty)


def character_errors(
    predictions: Sequence[str], references: Sequence[str], *, allow_empty: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Like `word_errors`, for characters. Spaces between words count, as in jiwer."""
    return _errors(jiwer.process_characters, predictions, references, allow_empty)


def _errors(
    align: Callable, predictions: Sequence[str], references: Sequence[str], allow_empty: bool
) -> tuple[np.ndarray, np.ndarray]:
    if len(predictions) != len(references):
        raise ValueError(
            f"{len(predictions)} predictions for {len(references)} references: give one prediction "
            "for each reference"
        )
    empty = [i for i, text in enumerate(references) if not text.strip()]
    if empty and not allow_empty:
        raise ValueError(
            f"reference {empty[0]} is empty ({len(empty)} of {len(references)} are): an error rate "
            "counts errors per word of the reference. Remove such utterances, or pass "
            "allow_empty=True to count the words predicted for them as insertions"
        )
    if not references:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    aligned = align(list(references), list(predictions))
    errors = [sum(map(_chunk_errors, chunks)) for chunks in aligned.alignments]
    lengths = [len(units) for units in aligned.references]
    return np.array(errors, np.int64), np.array(lengths, np.int64)


def _chunk_errors(chunk: jiwer.AlignmentChunk) -> int:
    if chunk.type == "equal":
        return 0
    return max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)


def looping(text: str) -> bool:
    """Whether a recogniser's output repeats itself, as decoders do that have lost the audio: its
    bytes compress to less than 1 / 2.4 with zlib.

    This is how Whisper's own decoding finds such output (Radford et al. 2022, arXiv 2212.04356,
    section 4.5). A text of a few words is never found.
    """
    content = text.encode()
    return len(content) > LOOP_COMPRESSION * len(zlib.compress(content))


def error_rate(errors: np.ndarray, words: np.ndarray) -> float:
    """The error rate of a corpus in percent: 100 sum(errors) / sum(words), not the mean of the
    utterances' rates.

    Insertions can make it exceed 100.

    Args:
        errors: (n,) errors per utterance, from `word_errors` or `character_errors`.
        words: (n,) words or characters of each reference, from the same function.

    Raises:
        ValueError: the references contain no words.
    """
    total = np.sum(words)
    if total == 0:
        raise ValueError(
            f"the {len(words)} references contain no words, so the error rate is undefined: give "
            "at least one that is not empty"
        )
    return float(100 * np.sum(errors) / total)


def bootstrap_interval(
    errors: np.ndarray,
    words: np.ndarray,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Bootstrap percentile interval of `error_rate` (Bisani & Ney, ICASSP 2004).

    Whole utterances are drawn with replacement, because the words of an utterance are not
    independent.

    Args:
        errors: (n,) errors per utterance.
        words: (n,) words of each reference.
        level: coverage, in (0, 1).
        resamples: number of resamples.
        seed: the same seed gives the same interval.

    Returns:
        (low, high) in percent.

    Raises:
        ValueError: level is outside of (0, 1), or the references contain no words.
    """
    if not 0 < level < 1:
        raise ValueError(
            f"level={level} is not a coverage: give a number between 0 and 1, for example 0.95"
        )
    # Raises if the references contain no words.
    error_rate(errors, words)
    errors, words, n = np.asarray(errors), np.asarray(words), len(words)
    rng, rates = np.random.default_rng(seed), []
    block = max(1, BLOCK // n)
    for start in range(0, resamples, block):
        # (resamples in this block, n)
        drawn = rng.integers(n, size=(min(resamples - start, block), n))
        drawn_errors, drawn_words = errors[drawn].sum(1), words[drawn].sum(1)
        # A resample can consist only of empty references.
        valid = drawn_words > 0
        rates.append(100 * drawn_errors[valid] / drawn_words[valid])
    low, high = np.quantile(np.concatenate(rates), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


class _ErrorRate(evaluate.Metric):
    """Base of the two metrics. They need no network and keep their inputs in memory.

    By default `evaluate` writes to a cache folder, where two processes can get in each other's way.
    Distributed use (`num_process > 1`) does need a folder that all processes share: pass
    `cache_dir`.
    """

    unit: str
    key: str
    count: Callable[..., tuple[np.ndarray, np.ndarray]]

    def __init__(
        self,
        *args: Any,
        cache_dir: str | None = None,
        num_process: int = 1,
        keep_in_memory: bool | None = None,
        **kwargs: Any,
    ):
        if cache_dir is None:
            cache_dir = tempfile.mkdtemp(prefix="hf_unlearn-")
            weakref.finalize(self, shutil.rmtree, cache_dir, ignore_errors=True)
        if keep_in_memory is None:
            keep_in_memory = num_process == 1
        super().__init__(
            *args,
            cache_dir=cache_dir,
            num_process=num_process,
            keep_in_memory=keep_in_memory,
            **kwargs,
        )

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=f"{self.unit.capitalize()} error rate of all utterances, in percent.",
            citation="Morris, Maier, Green: From WER and RIL to MER and WIL. Interspeech 2004.",
            inputs_description="predictions, references: texts. resamples: number of bootstrap "
            "resamples for an interval, 0 for none.",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
            codebase_urls=["https://github.com/jitsi/jiwer"],
        )

    def _compute(
        self,
        predictions: list[str],
        references: list[str],
        allow_empty: bool = False,
        resamples: int = 0,
        level: float = 0.95,
        seed: int = 0,
    ) -> dict[str, float]:
        errors, words = type(self).count(predictions, references, allow_empty=allow_empty)
        rates = {self.key: error_rate(errors, words)}
        if resamples:
            low, high = bootstrap_interval(
                errors, words, level=level, resamples=resamples, seed=seed
            )
            rates |= {f"{self.key}_low": low, f"{self.key}_high": high}
        return rates


class WordErrorRate(_ErrorRate):
    """Word error rate in percent, as a metric of `evaluate`.

    `compute(predictions=texts, references=texts)` returns {"wer": ...}, and with `resamples=1000`
    also the bounds of its bootstrap interval, "wer_low" and "wer_high".
    """

    unit, key, count = "word", "wer", staticmethod(word_errors)


class CharacterErrorRate(_ErrorRate):
    """Character error rate in percent, as a metric of `evaluate`.

    `compute(predictions=texts, references=texts)` returns {"cer": ...}, and with `resamples=1000`
    also the bounds of its bootstrap interval, "cer_low" and "cer_high".
    """

    unit, key, count = "character", "cer", staticmethod(character_errors)


def accuracy(
    predictions: np.ndarray, labels: np.ndarray, *, level: float = 0.95
) -> dict[str, float]:
    """Accuracy in percent with its Wilson interval, whose width is not 0 at 0 % and 100 %, unlike
    that of a bootstrap interval.

    Args:
        predictions: (n,) predicted class numbers.
        labels: (n,) true class numbers.
        level: coverage, in (0, 1).

    Returns:
        accuracy, accuracy_low, accuracy_high: in percent.

    Raises:
        ValueError: the shapes differ, or there are no samples.
    """
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if predictions.shape != labels.shape or not labels.size:
        raise ValueError(
            f"predictions {predictions.shape} for labels {labels.shape}: give one prediction for "
            "each label, and at least one"
        )
    correct = int((predictions == labels).sum())
    interval = binomtest(correct, labels.size).proportion_ci(level, method="wilson")
    rates = {
        "accuracy": correct / labels.size,
        "accuracy_low": interval.low,
        "accuracy_high": interval.high,
    }
    return {name: 100 * float(rate) for name, rate in rates.items()}


def accuracy_of_classes(predictions: np.ndarray, labels: np.ndarray) -> dict[int, float]:
    """The accuracy (%) on each class that occurs in `labels`, by class number.

    Args:
        predictions: (n,) predicted class numbers.
        labels: (n,) true class numbers.
    """
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    return {int(c): 100 * float((predictions[labels == c] == c).mean()) for c in np.unique(labels)}


def f1_macro(predictions: np.ndarray, labels: np.ndarray) -> float:
    """The mean of the F1 scores of all classes, in percent: rare classes count as much as others.

    As in scikit-learn, the mean is over the classes that occur in `labels` or in `predictions`. On
    samples of a single class, every other class that is predicted therefore counts as an F1 of 0.

    Args:
        predictions: (n,) predicted class numbers.
        labels: (n,) true class numbers.

    Raises:
        ValueError: the shapes differ.
    """
    return 100 * float(f1_score(labels, predictions, average="macro", zero_division=0))
