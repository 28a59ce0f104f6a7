"""How sure a figure is: intervals of proportions and of means. Pure; those that draw are seeded."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from rlaif_ray.types import Array

__all__ = ["balanced_interval", "bootstrap_interval", "wilson", "wilson_interval"]

RESAMPLES = 1_000
SEED = 0  # the same labels, the same interval
LEVEL = 0.95
Z = 1.959964  # of the level


def wilson(share: ArrayLike, n: ArrayLike) -> tuple[Array, Array]:
    """Ends of the 95 % score interval (Wilson 1927) of shares of ``n`` trials each; shapes broadcast.

    ``n`` need not be whole: an effective number of trials does. (0, 1) where it is 0 or nan, a point where it is
    infinite. SciPy's interval of a binomial test is the same for one whole number at a time.
    """
    p, trials = np.asarray(share, np.float64), np.asarray(n, np.float64)
    known = trials > 0
    inverse = 1.0 / np.where(known, trials, 1.0)
    zz = Z * Z * inverse
    centre, half = p + zz / 2, Z * np.sqrt(inverse * (p * (1 - p) + zz / 4))
    low, high = np.maximum(0.0, (centre - half) / (1 + zz)), np.minimum(1.0, (centre + half) / (1 + zz))
    return np.where(known, low, 0.0), np.where(known, high, 1.0)


def wilson_interval(successes: float, n: float) -> tuple[float, float]:
    """``wilson`` of one share, by its count."""
    low, high = wilson(successes / max(n, 1), n)
    return float(low), float(high)


def balanced_interval(right: tuple[int, int], n: tuple[int, int]) -> tuple[float, float]:
    """95 % interval of the mean of two classes' recalls ``right[c] / n[c]``; nan where a class is missing.

    The distances from each recall to the ends of its Wilson interval are squared and added (Newcombe 1998, "Interval
    estimation for the difference between independent proportions", method 10). A bootstrap would call the recall of a
    handful of labels certain where all of them are right.
    """
    if not all(n):
        return math.nan, math.nan
    recall = [r / m for r, m in zip(right, n, strict=True)]
    ends = [wilson_interval(r, m) for r, m in zip(right, n, strict=True)]
    below, above = (math.hypot(*(p - e[side] for p, e in zip(recall, ends, strict=True))) / 2 for side in (0, 1))
    middle = sum(recall) / 2
    return max(0.0, middle - below), min(1.0, middle + above)


def bootstrap_interval(
    figure: Callable[[Array, Array], float], belief_E: Array, target_E: Array, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """95 % interval of ``figure(belief, target)`` by resampling the E labels (percentiles; Efron 1979), stretched to
    hold the figure itself: a resample's calibration error is larger on average. Nan for no labels."""
    E = len(belief_E)
    if not E:
        return math.nan, math.nan
    rng = np.random.default_rng(SEED)
    found = [figure(belief_E[i], target_E[i]) for i in rng.integers(0, E, (resamples, E))]
    low, high = np.quantile(found, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    itself = figure(belief_E, target_E)
    return float(min(low, itself)), float(max(high, itself))
