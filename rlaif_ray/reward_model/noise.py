"""How often a judge's labels are flipped, estimated, and what that means for a weighted loss. Pure.

Only a label that claims certainty (0 or 1) can be flipped: the model of Natarajan et al. 2013 ("Learning with noisy
labels") and of the papers below has a class for a label. One in between says itself how far it is to be trusted, and a
cross entropy is smallest at its expectation as it is (Gneiting and Raftery 2007, "Strictly proper scoring rules"):
there is nothing to undo.

The rates come from beliefs about labels that the model did not learn from (folds): independent mistakes average out in
a model, so where it is confident and the label says otherwise, the label is taken to be flipped. That counts what is
*not* learnable as noise: a judge that errs about a kind of content is believed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rlaif_ray.types import Array

__all__ = ["FlipRates", "estimate_flips", "perfect_agreement"]

# Of confident beliefs in a class; fewer tell no rate from luck.
FEWEST_CONFIDENT = 15
# A model that finds more flipped labels than that has not learned, and its doubts are its own.
MOST_FLIPPED = 0.3


@dataclass(frozen=True)
class FlipRates:
    """Probabilities that a label is on the other side than what it is about."""

    bad_as_good: float = 0.0
    good_as_bad: float = 0.0

    def __bool__(self) -> bool:
        return self.bad_as_good > 0.0 or self.good_as_bad > 0.0

    def under(self, ratio: float) -> FlipRates:
        """The rates in a sample where a label "bad" weighs ``ratio`` times as much as one "good".

        Weights go by the label, so a good episode called bad counts ``ratio`` times: with rate b of those,
        b' = ratio b / (ratio b + 1 - b), and a' = a / (a + ratio (1 - a)) the other way.
        """
        a, b = self.bad_as_good, self.good_as_bad
        return FlipRates(a / (a + ratio * (1 - a)), ratio * b / (ratio * b + 1 - b))


def estimate_flips(
    belief_E: Array, target_E: Array, certain_E: Array | None = None, *, symmetric: bool = False
) -> FlipRates:
    """Rates from (E,) beliefs that never saw their own labels against the (E,) labels. ``certain_E``: bool, which of
    them claim certainty, and are looked at; None: all.

    A belief is confident of a class where it is above its mean over the labels of that class (Northcutt et al. 2021,
    "Confident learning", arXiv:1911.00068, eq. 1 and 2). ``symmetric``: of preferences, where which one is first means
    nothing, both rates are one.
    """
    if certain_E is not None:
        belief_E, target_E = belief_E[certain_E], target_E[certain_E]
    counts = []
    for belief, target in ((1 - belief_E, 1 - target_E), (belief_E, target_E)):
        threshold = max(0.5, float(np.sum(belief * target) / max(target.sum(), 1e-9)))
        sure = belief >= threshold
        counts.append((float((1 - target[sure]).sum()), int(sure.sum())))
    if symmetric:
        counts = [(counts[0][0] + counts[1][0], counts[0][1] + counts[1][1])] * 2
    rates = [min(MOST_FLIPPED, flipped / n) if n >= FEWEST_CONFIDENT else 0.0 for flipped, n in counts]
    return FlipRates(*rates)


def perfect_agreement(flips: FlipRates, said_good: float) -> tuple[float, float]:
    """(plain, balanced) agreement with the labels of a model that is never wrong; a share ``said_good`` of the labels
    is good.

    With a of the bad called good, b of the good called bad and a share t good in truth, g = t (1 - b) + (1 - t) a are
    called so; t (1 - b) / g of these are, and (1 - t) (1 - a) / (1 - g) of those called bad are bad. Balanced is nan
    where one class is never called.
    """
    a, b = flips.bad_as_good, flips.good_as_bad
    truly = min(1.0, max(0.0, (said_good - a) / (1 - a - b)))
    called = truly * (1 - b) + (1 - truly) * a
    right_good, right_bad = truly * (1 - b), (1 - truly) * (1 - a)
    if called in (0.0, 1.0):
        return right_good + right_bad, math.nan
    return right_good + right_bad, (right_good / called + right_bad / (1 - called)) / 2
