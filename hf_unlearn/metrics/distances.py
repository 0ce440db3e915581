"""Compares groups of numbers, such as losses: distances, pairs of equal length, and ranks among
others. Pure functions on arrays."""

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import wasserstein_distance


def earth_movers_distance(first: np.ndarray, second: np.ndarray) -> float:
    """How far apart two groups of numbers are, in the numbers' own unit: the mean distance that the
    values of one group have to move to become the other (Wasserstein distance of order 1).

    Args:
        first: (n,).
        second: (m,).
    """
    return float(wasserstein_distance(np.asarray(first), np.asarray(second)))


def matched_pairs(
    first: np.ndarray, second: np.ndarray, *, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs samples of two groups that are equally long, each sample at most once. There are as
    many pairs as possible; of all such pairings, this one has the smallest sum of differences.

    Args:
        first: durations (n,).
        second: durations (m,).
        tolerance: pairs that differ by more are left out; in the durations' unit.

    Returns:
        the indices (p,) of the paired samples in each group; p may be 0.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    difference = np.abs(first[:, None] - second)  # (n, m)
    # A pair that is left out costs more than all others together, and always the same.
    left_out = (min(difference.shape) + 1) * (tolerance + 1)
    rows, columns = linear_sum_assignment(np.where(difference <= tolerance, difference, left_out))
    close = difference[rows, columns] <= tolerance
    return rows[close], columns[close]


def share_above(value: float, others: np.ndarray) -> float:
    """The share (%) of the other numbers that are higher than `value`; equal ones count half. 50 is
    the middle of them, 0 is above all, 100 is below all.

    Args:
        others: (n,), at least one.
    """
    others = np.asarray(others, np.float64)
    return float(100 * (np.mean(others > value) + np.mean(others == value) / 2))


def separation(members: np.ndarray, others: np.ndarray) -> float:
    """The area under the ROC curve in percent: how often a member has the higher score of a random
    member and a random other sample. Equal scores count half; 50 is a coin toss.

    Args:
        members: scores (n,).
        others: scores (m,).
    """
    below = np.searchsorted(np.sort(others), members, side="left")
    not_above = np.searchsorted(np.sort(others), members, side="right")
    return float(100 * np.mean((below + not_above) / 2) / len(others))
