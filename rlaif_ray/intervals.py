"""How sure a figure is: intervals of proportions and of means. Pure; those that draw are seeded."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rlaif_ray.types import Array

__all__ = ["absolute_interval", "balanced_interval", "bootstrap_interval", "wilson", "wilson_interval"]

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
    hold the figure itself. Nan for no labels.

    What no label showed may happen all the same: so resamples are also drawn from the labels and one more, which says
    the opposite of one of them, and the ends are the outermost of both. Of E labels a Poisson number around 1 are then
    such, 3 at its upper end: where all labels agree with the beliefs, 3 / E that don't are allowed for, as by the rule
    of three (Hanley and Lippman-Hand 1983).
    """
    if not len(belief_E):
        return math.nan, math.nan
    return _outermost(_resampled(figure, belief_E, target_E, resamples), figure(belief_E, target_E))


def absolute_interval(
    gaps: Callable[[Array, Array], Array], belief_E: Array, target_E: Array, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """As ``bootstrap_interval``, of the sum over B of |``gaps(belief, target)``|, (B,) each a mean over labels.

    Such a sum is larger in a sample than in truth, and larger yet in a resample: percentiles would leave out a truth
    near 0. By the triangle inequality it is off by no more than the gaps are in sum, and how far these are off is seen
    from the resamples: the lower end is that far below, and at least 0.
    """
    if not len(belief_E):
        return math.nan, math.nan
    found, itself = _resampled(gaps, belief_E, target_E, resamples), gaps(belief_E, target_E)
    total = float(np.abs(itself).sum())
    off = np.quantile(np.abs(found - itself).sum(axis=-1), (1 + LEVEL) / 2, axis=1).max()
    return max(0.0, total - float(off)), _outermost(np.abs(found).sum(axis=-1), total)[1]


def _resampled(figure: Callable[[Array, Array], Any], belief_E: Array, target_E: Array, resamples: int) -> Array:
    """(2, R, ...) ``figure`` of resamples of the labels, and of resamples of these and one more to the contrary."""
    E, rng = len(belief_E), np.random.default_rng(SEED)
    found = [figure(belief_E[i], target_E[i]) for i in rng.integers(0, E, (resamples, E))]
    unseen = []
    for i in rng.integers(0, E + 1, (resamples, E)):
        opposite = i == E
        i[opposite] = rng.integers(0, E, int(opposite.sum()))
        unseen.append(figure(belief_E[i], np.where(opposite, 1 - target_E[i], target_E[i])))
    return np.array([found, unseen])


def _outermost(found: Array, itself: float) -> tuple[float, float]:
    """Ends of (2, R) figures' percentiles, and of the figure itself."""
    low, high = np.quantile(found, ((1 - LEVEL) / 2, (1 + LEVEL) / 2), axis=1)
    return min(float(low.min()), itself), max(float(high.max()), itself)
