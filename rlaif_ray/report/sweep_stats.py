"""The statistics of a sweep's report: pure functions of arrays.

Interquartile means and stratified bootstrap intervals after Agarwal et al. (2021), "Deep reinforcement learning at the
edge of the statistical precipice", NeurIPS, sections 4.1 and 4.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student_t
from scipy.stats import trim_mean

from rlaif_ray.types import Array

__all__ = ["Interval", "Marginal", "interquartile_mean", "marginal", "paired_gain", "pareto_front", "stratified_iqm"]

RESAMPLES = 4_000
LEVEL = 0.95
_SEED = 0  # the same figures give the same interval


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval; nan where there is too little to say."""

    value: float
    low: float
    high: float
    n: int


def interquartile_mean(values: Array) -> float:
    """Mean of the middle half: floor(n / 4) values are left out at each end; nan for none."""
    known = np.asarray(values, np.float64)
    known = known[np.isfinite(known)]
    return float(trim_mean(known, 0.25)) if len(known) else float("nan")


def stratified_iqm(strata: Sequence[Array]) -> Interval:
    """Interquartile mean of all values and its percentile bootstrap interval, resampled within each stratum.

    A stratum holds the values of runs alike but for their seeds, (n_k,); its runs never stand in for another's.
    One run in all has no interval.
    """
    known = [values[np.isfinite(values)] for values in strata]
    known = [values for values in known if len(values)]
    everything = np.concatenate(known) if known else np.zeros(0)
    value, n = interquartile_mean(everything), len(everything)
    if n < 2:
        return Interval(value, float("nan"), float("nan"), n)
    rng = np.random.default_rng(_SEED)
    drawn = [values[rng.integers(len(values), size=(RESAMPLES, len(values)))] for values in known]
    resampled = trim_mean(np.concatenate(drawn, axis=1), 0.25, axis=1)
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high), n)


def paired_gain(before: Array, after: Array) -> Interval:
    """Mean of ``after - before`` over seeds that both have, (S,) each, nan where not run, and Student's interval of it.

    Not a bootstrap: of three to five pairs, resampled ones cover 74 to 84 % where 95 % are meant.
    """
    gain = np.asarray(after, np.float64) - np.asarray(before, np.float64)
    gain = gain[np.isfinite(gain)]
    if not len(gain):
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    mean = float(gain.mean())
    if len(gain) < 2:
        return Interval(mean, float("nan"), float("nan"), 1)
    half = float(student_t.ppf((1 + LEVEL) / 2, len(gain) - 1) * gain.std(ddof=1) / np.sqrt(len(gain)))
    return Interval(mean, mean - half, mean + half, len(gain))


def pareto_front(cost: Array, quality: Array) -> Array:
    """(A,) bool: nothing else is at once as cheap and as good, and better in one of the two. nan is never on it."""
    known = np.isfinite(cost) & np.isfinite(quality)
    no_worse = (cost[None] <= cost[:, None]) & (quality[None] >= quality[:, None]) & known[None]
    better = (cost[None] < cost[:, None]) | (quality[None] > quality[:, None])
    front: Array = known & ~(no_worse & better).any(axis=1)
    return front


@dataclass(frozen=True)
class Marginal:
    """What the step from one way to a dearer one costs and brings."""

    gain: Interval  # of the outcome, in its own unit
    more: float  # of the cost
    price: float  # of one unit of the outcome; nan where no gain is shown
    dearest: float  # at the lower end of the gain's interval; infinity where that is no gain


def marginal(cost: tuple[Array, Array], quality: tuple[Array, Array]) -> Marginal:
    """(before, after) by seed, (S,) each, nan where not run. The price is the extra cost over the mean paired gain."""
    more = float(np.nanmean(cost[1]) - np.nanmean(cost[0]))
    gain = paired_gain(*quality)
    shown = gain.value > 0 and not gain.low <= 0  # one pair has no interval: its gain stands as it is
    price = more / gain.value if shown else float("nan")
    dearest = more / gain.low if gain.low > 0 else float("inf")
    return Marginal(gain, more, price, dearest)
