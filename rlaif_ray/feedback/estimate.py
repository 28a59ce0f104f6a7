"""What the answers to some say of all: estimates over every episode that could have been asked about, with intervals.

Episodes are asked about with known inclusion probabilities pi (``select.py``), so an answer stands for 1 / pi episodes:

    Horvitz-Thompson (1952)   total  = sum of y / pi                                unbiased
    Hajek (1971)              mean   = sum of y / pi  /  sum of 1 / pi              without knowing how many all are

The interval is Wilson's with an effective number of answers, as Korn & Graubard (1998) do for surveys: p (1 - p) / V,
where V = sum of (1 - pi) ((y - p) / pi)^2 / (sum of 1 / pi)^2 is the variance as of independent draws, and never more
than the weights alone allow: few answers that all agree prove little. Where all were asked the interval is a point.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from rlaif_ray.intervals import wilson
from rlaif_ray.types import Array, Label, Verdict

__all__ = ["Estimate", "approval_of", "estimated_mean", "estimated_total"]


@dataclass(frozen=True)
class Estimate:
    """A mean over all episodes, estimated from the answers to some."""

    mean: float  # [0, 1]; nan without an answer
    low: float  # of the 95 % interval
    high: float
    answers: int
    episodes: float  # that they stand for: sum of 1 / pi

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def estimated_total(value: Array, probability: Array) -> float:
    """Horvitz-Thompson: the sum over all episodes of what was found for some (k,), drawn with ``probability`` (k,)."""
    return float(np.sum(value / probability))


def estimated_mean(value: Array, probability: Array) -> Estimate:
    """Hajek: the mean over all episodes of values (k,) in [0, 1], drawn with ``probability`` (k,) in (0, 1]."""
    k = len(value)
    if not k:
        return Estimate(math.nan, math.nan, math.nan, 0, 0.0)
    weight = 1.0 / probability
    episodes = float(weight.sum())
    mean = min(1.0, max(0.0, float(value @ weight) / episodes))
    # (1 - pi) / pi^2 = w (w - 1)
    spread = weight * (weight - 1.0)
    of_weights = float(spread.sum()) / episodes**2
    variance = float(spread @ (value - mean) ** 2) / episodes**2
    binomial = mean * (1.0 - mean)
    inverse_n = max(of_weights, variance / binomial if binomial > 0.0 else 0.0)  # of the effective number
    low, high = wilson(mean, 1.0 / inverse_n if inverse_n else math.inf)
    return Estimate(mean, float(low), float(high), k, episodes)


def approval_of(labels: Iterable[Label]) -> Estimate:
    """The share of all episodes that the judge approves of (of ratings: their mean), from labels of a run or several.

    Abstentions are left out, as if those episodes were like the others; so are preferences, which say nothing of one
    episode, and answers that no draw asked for.
    """
    answers = [
        (label.outcome.value, label.inclusion_probability)
        for label in labels
        if isinstance(label.outcome, Verdict) and label.outcome.kind != "preference" and label.draw != "known"
    ]
    value, probability = np.array(answers, np.float64).reshape(-1, 2).T
    return estimated_mean(value, probability)
