"""Word and character error rate and accuracy in percent, over a whole set, with 95 % intervals."""

import shutil
import tempfile
import weakref

import datasets
import evaluate
import jiwer
import numpy as np
from scipy.stats import binomtest

BLOCK = 2**22  # resampled indices held in memory at once (32 MiB)


def word_errors(predictions, references, *, allow_empty=False):
    """Substituted, deleted and inserted words of each utterance, and the words of its reference.

    Args:
        predictions, references: lists of n texts, taken as they are: normalise them first. A
            prediction may be empty.
        allow_empty: count the words predicted for an empty reference as errors; otherwise refuse
            such a reference.

    Returns:
        errors (n,), words (n,): int64 arrays.

    Raises:
        ValueError: lists of different length, or an empty reference (its index is named).
    """
    return _errors(jiwer.process_words, predictions, references, allow_empty)


def character_errors(predictions, references, *, allow_empty=False):
    """As `word_errors`, in characters; spaces between words count, as in jiwer."""
    return _errors(jiwer.process_characters, predictions, references, allow_empty)


def _errors(align, predictions, references, allow_empty):
    if len(predictions) != len(references):
        raise ValueError(
            f"{len(predictions)} predictions for {len(references)} references: give one for each."
        )
    empty = [i for i, text in enumerate(references) if not text.strip()]
    if empty and not allow_empty:
        raise ValueError(
            f"Reference {empty[0]} is empty ({len(empty)} of {len(references)} are): an error rate "
            "counts errors per "
            "word of the reference. Remove such utterances, or pass allow_empty=True to count what "
            "is predicted "
            "for them as insertions."
        )
    if not references:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    aligned = align(list(references), list(predictions))
    errors = [sum(map(_chunk_errors, chunks)) for chunks in aligned.alignments]
    return np.array(errors, np.int64), np.array(
        [len(units) for units in aligned.references], np.int64
    )


def _chunk_errors(chunk):
    if chunk.type == "equal":
        return 0
    return max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)


def error_rate(errors, words):
    """100 * sum(errors) / sum(words): percent over the corpus, never the mean of the utterances'
    rates.

    Insertions can take it beyond 100.

    Args:
        errors, words: (n,) counts per utterance, as `word_errors` gives them.

    Raises:
        ValueError: no word in any reference.
    """
    total = np.sum(words)
    if total == 0:
        raise ValueError(
            f"The {len(words)} references hold no words, so the error rate is undefined. Check the "
            "texts."
        )
    return float(100 * np.sum(errors) / total)


def bootstrap_interval(errors, words, *, level=0.95, resamples=1000, seed=0):
    """Percentile interval of `error_rate`, utterances drawn with replacement (Bisani & Ney, ICASSP
    2004).

    Args:
        errors, words: (n,) counts per utterance. Words of one utterance are not independent, so
            whole utterances are drawn.
        level: coverage, in (0, 1).

    Returns:
        (low, high) in percent; the same for the same seed.

    Raises:
        ValueError: a level outside of (0, 1), or no word in any reference.
    """
    if not 0 < level < 1:
        raise ValueError(
            f"level={level} is no coverage: give a number between 0 and 1, for example 0.95."
        )
    error_rate(errors, words)  # refuses a corpus without words
    errors, words, n = np.asarray(errors), np.asarray(words), len(words)
    rng, rates = np.random.default_rng(seed), []
    for start in range(0, resamples, max(1, BLOCK // n)):
        drawn = rng.integers(n, size=(min(resamples - start, max(1, BLOCK // n)), n))
        drawn_errors, drawn_words = errors[drawn].sum(1), words[drawn].sum(1)
        some = drawn_words > 0  # a few empty references can make up a whole resample
        rates.append(100 * drawn_errors[some] / drawn_words[some])
    low, high = np.quantile(np.concatenate(rates), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


class _ErrorRate(evaluate.Metric):
    """What the two metrics share: they need no network, and hold their inputs in memory.

    `evaluate` writes into its cache folder otherwise, where two processes can meet. Distributed use
    (`num_process > 1`) does need a folder common to all: give `cache_dir`.
    """

    unit, key, count = "", "", None

    def __init__(self, *args, cache_dir=None, num_process=1, keep_in_memory=None, **kwargs):
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

    def _info(self):
        return evaluate.MetricInfo(
            description=f"{self.unit.capitalize()} error rate in percent, over all utterances "
            "together.",
            citation="Morris, Maier, Green: From WER and RIL to MER and WIL. Interspeech 2004.",
            inputs_description="predictions, references: texts. resamples: number of bootstrap "
            "resamples, 0 for none.",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
            codebase_urls=["https://github.com/jitsi/jiwer"],
        )

    def _compute(self, predictions, references, allow_empty=False, resamples=0, level=0.95, seed=0):
        errors, words = type(self).count(predictions, references, allow_empty=allow_empty)
        rates = {self.key: error_rate(errors, words)}
        if resamples:
            low, high = bootstrap_interval(
                errors, words, level=level, resamples=resamples, seed=seed
            )
            rates |= {f"{self.key}_low": low, f"{self.key}_high": high}
        return rates


class WordErrorRate(_ErrorRate):
    """`compute(predictions=, references=, resamples=1000)` -> {"wer", "wer_low", "wer_high"}, in
    percent."""

    unit, key, count = "word", "wer", staticmethod(word_errors)


class CharacterErrorRate(_ErrorRate):
    """`compute(predictions=, references=, resamples=1000)` -> {"cer", "cer_low", "cer_high"}, in
    percent."""

    unit, key, count = "character", "cer", staticmethod(character_errors)


def accuracy(predictions, labels, *, level=0.95):
    """Percent of right predictions with its Wilson interval (unlike a bootstrap's, it has a width
    at 0 and 100).

    Args:
        predictions, labels: (n,) arrays of class numbers.
        level: coverage, in (0, 1).

    Returns:
        {"accuracy", "accuracy_low", "accuracy_high"}, in percent.

    Raises:
        ValueError: arrays of different shape, or without samples.
    """
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if predictions.shape != labels.shape or not labels.size:
        raise ValueError(
            f"predictions {predictions.shape} for labels {labels.shape}: give one for "
            "each, at least one"
        )
    right = int((predictions == labels).sum())
    interval = binomtest(right, labels.size).proportion_ci(level, method="wilson")
    rates = {
        "accuracy": right / labels.size,
        "accuracy_low": interval.low,
        "accuracy_high": interval.high,
    }
    return {name: 100 * float(rate) for name, rate in rates.items()}


def accuracy_of_classes(predictions, labels):
    """{class number: percent of its samples that are predicted right}, for the classes among
    `labels`.

    Args:
        predictions, labels: (n,) arrays of class numbers.
    """
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    return {int(c): 100 * float((predictions[labels == c] == c).mean()) for c in np.unique(labels)}
