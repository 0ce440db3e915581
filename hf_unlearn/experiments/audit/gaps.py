"""The result of a door for one model, and the definition of the gap between two models."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...metrics import separation, share_above

# Bootstrap intervals: every model gets the same draws of the same samples.
DRAWS, LEVEL, SEED = 1000, 0.95, 0
# Fewer samples may all differ in one direction by chance: five do with a probability of 2/2^5 > 5 %
# (sign test). Resampling alone would call this certain.
FEWEST = 6


@dataclass(frozen=True)
class Finding:
    """What one door finds of one model.

    Attributes:
        value: as it is shown.
        unit: of the value, such as "WER (%)".
        direction: "high" if a high value means that the model knows the forgotten samples, "low" if
            a low one does, "" if the value only describes the model and is not compared.
        draws: the value for resampled samples (DRAWS,); None where there is no interval.
        more: what else audit.json shows for this model.
        by_sample: what was counted of each sample (n,), to tell on how many two models differ; None
            if samples are not counted one by one.
        samples: how many samples the smallest resampled group has; None if unknown.
    """

    value: float
    unit: str
    direction: str
    draws: np.ndarray | None = None
    more: dict[str, Any] = field(default_factory=dict)
    by_sample: np.ndarray | None = field(default=None, repr=False)
    samples: int | None = None

    @property
    def sign(self) -> int:
        return -1 if self.direction == "low" else 1


def gap_to_retrained(unlearned: Finding, retrained: Finding) -> dict[str, float]:
    """How much more the unlearned model knows of the forgotten samples than the retrained model, as
    measured through the same door, in points.

    A point is one percent of what the door counts: words (WER: retrained minus unlearned), samples
    (accuracy and rates: unlearned minus retrained), pairs of samples in the correct order (100 AUC:
    unlearned minus retrained), or other speakers or classes that the model recognises worse. Above
    0 the unlearned model still knows something. Below 0 it knows the forgotten samples
    conspicuously badly.

    Returns:
        gap; and low and high, the ends of its 95 % bootstrap interval, in which both models get the
        same samples, where both have draws of the same number. If fewer than `FEWEST` samples
        decide, the interval is extended to 0.
    """
    sign = unlearned.sign
    ends = {"gap": sign * (unlearned.value - retrained.value)}
    if unlearned.draws is not None and retrained.draws is not None:
        difference = sign * (unlearned.draws - retrained.draws)
        low, high = np.nanquantile(difference, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        if _deciding_samples(unlearned, retrained) < FEWEST:
            low, high = min(low, 0.0), max(high, 0.0)
        ends |= {"low": float(low), "high": float(high)}
    return ends


def _deciding_samples(one: Finding, other: Finding) -> float:
    """On how many samples two models differ; of attacks, the size of the smaller group."""
    if one.by_sample is not None and other.by_sample is not None:
        return float(np.count_nonzero(one.by_sample != other.by_sample))
    return float("inf") if one.samples is None else one.samples


def points_forgotten(original: Finding, unlearned: Finding) -> float:
    """How much less the unlearned model knows of the forgotten samples than the original, in
    points: what unlearning has changed, as measured through one door."""
    return original.sign * (original.value - unlearned.value)


# ---- findings ------------------------------------------------------------------------------------


def rate(counts: np.ndarray, totals: np.ndarray, unit: str, direction: str, **more: Any) -> Finding:
    """100 sum(counts) / sum(totals), with draws of whole samples.

    Args:
        counts: (n,) wrong words, or whether a sample was recognised.
        totals: (n,) words, or 1 each.
    """
    counts, totals = np.asarray(counts, np.float64), np.asarray(totals, np.float64)
    drawn = _resampled(len(counts))
    with np.errstate(invalid="ignore"):
        draws = 100 * counts[drawn].sum(1) / totals[drawn].sum(1)
    value = float(100 * counts.sum() / totals.sum())
    return Finding(value, unit, direction, draws, more, by_sample=counts)


def auc_finding(members: np.ndarray, others: np.ndarray, **more: Any) -> Finding:
    """How well a score tells members from others: 100 AUC, with draws of both groups. `more` has
    the sizes of both: `forgotten` and `unseen`."""
    members, others = np.asarray(members, np.float64), np.asarray(others, np.float64)
    pairs = zip(_resampled(len(members)), _resampled(len(others), SEED + 1))
    draws = np.array([separation(members[ours], others[theirs]) for ours, theirs in pairs])
    fewest = min(len(members), len(others))
    more = {"forgotten": len(members), "unseen": len(others), **more}
    return Finding(separation(members, others), "AUC (%)", "high", draws, more, samples=fewest)


def share_ranked_above(
    values: Sequence[float], others: np.ndarray, unit: str, **more: Any
) -> Finding:
    """The share (%) of `others` that are higher than each of `values`, averaged over `values`;
    `others` are resampled."""
    others = np.asarray(others, np.float64)

    def share(group: np.ndarray) -> float:
        return float(np.mean([share_above(value, group) for value in values]))

    draws = np.array([share(others[drawn]) for drawn in _resampled(len(others))])
    return Finding(share(others), unit, "high", draws, more, samples=len(others))


def _resampled(count: int, seed: int = SEED) -> np.ndarray:
    """Numbers of the samples of each draw (DRAWS, count), the same for every model."""
    return np.random.default_rng(seed).integers(count, size=(DRAWS, count))
