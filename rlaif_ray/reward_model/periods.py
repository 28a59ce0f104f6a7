"""Held-out labels by policy version: how a reward model does on what the policy does now. Pure.

A *period* is a span of policy versions, cut so that it holds enough held-out labels to say something; the newest one is
*on-policy*. As the policy gets better harm becomes rare, and then the newest period can't tell a good model from one
that always says "good". So what is published and what is rolled back goes by an ``Exam``: the newest period where it
has at least 20 labels of either class, else the newest period and an *anchor*, labels of earlier versions that are
stratified by class and period.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlaif_ray.types import Array, PeriodAccuracy

__all__ = ["DRIFT_LEVEL", "Exam", "accuracies", "drift_p", "exam_of", "period_length", "periods_of"]

# A quarter of the held-out labels is new; fewer than 20 say nothing, and more than 100 reach far back for nothing.
NEWEST_SHARE = 0.25
FEWEST, MOST = 20, 100
ANCHOR_OF_A_CLASS = 100  # labels; a proportion of 85 % is then known to 7 points
# Of the drift test. A run of 500 labels makes some 20 fits: at 1 % a run without drift has an alarm in at most one of
# five, and as neighbouring fits share most of their labels in far fewer.
DRIFT_LEVEL = 0.01


def period_length(held_out: int) -> int:
    """How many held-out labels a period should have at least."""
    return int(min(MOST, max(FEWEST, NEWEST_SHARE * held_out)))


def periods_of(version_E: Array, at_least: int) -> Array:
    """(E,) policy versions -> (E,) int64 number of each one's period, 0 the oldest.

    Cut from the newest back: whole versions until there are ``at_least`` labels; what is left over joins the oldest.
    """
    versions, of, count = np.unique(version_E, return_inverse=True, return_counts=True)
    back = np.zeros(len(versions), np.int64)  # counted from the newest
    period = filled = 0
    for v in range(len(versions) - 1, -1, -1):
        if filled >= at_least:
            period, filled = period + 1, 0
        back[v] = period
        filled += count[v]
    if period and filled < at_least:
        back[back == period] = period - 1
    numbers: Array = (back.max(initial=0) - back)[of.reshape(-1)]
    return numbers


def accuracies(belief_E: Array, target_E: Array, version_E: Array, period_E: Array) -> tuple[PeriodAccuracy, ...]:
    """How beliefs (above 1/2: good) did in each period, oldest first."""
    rows = []
    for period in np.unique(period_E).tolist():
        here = period_E == period
        good, bad, says = target_E[here] > 0.5, target_E[here] < 0.5, belief_E[here] > 0.5
        span = int(version_E[here].min()), int(version_E[here].max())
        rows.append(
            PeriodAccuracy(*span, int(good.sum()), int((good & says).sum()), int(bad.sum()), int((bad & ~says).sum()))
        )
    return tuple(rows)


def drift_p(rows: Sequence[PeriodAccuracy]) -> float:
    """P(at least as many errors in the newest period, were they spread by chance), one-sided and exact.

    Within each class the errors that fall into the newest period are hypergeometric, given how many there are in all;
    their sum over both classes is what is looked at, so that a newest period with another share of harm is no drift by
    itself (a stratified Fisher test; Mantel 1963, "Chi-square tests with one degree of freedom", exact form). Nan for
    one period.
    """
    if len(rows) < 2:
        return math.nan
    from scipy import stats  # half a second of each process that begins, and few come here

    *before, newest = rows
    chance = np.ones(1)
    for good in (True, False):
        n, wrong = _of_class([newest], good)
        n_before, wrong_before = _of_class(before, good)
        if n + n_before:
            drawn = stats.hypergeom(n + n_before, wrong + wrong_before, n).pmf(np.arange(n + 1))
            chance = np.convolve(chance, drawn)
    return float(min(1.0, chance[newest.n - newest.right :].sum()))


def _of_class(rows: Sequence[PeriodAccuracy], good: bool) -> tuple[int, int]:
    """Labels and errors."""
    counts = [(row.good, row.good - row.good_right) if good else (row.bad, row.bad - row.bad_right) for row in rows]
    return sum(n for n, _ in counts), sum(wrong for _, wrong in counts)


@dataclass(frozen=True)
class Exam:
    """What a model is published and rolled back by."""

    index: Array  # (M,) int64, which of the held-out labels
    on_policy: bool  # the newest period alone

    @property
    def labels(self) -> str:
        """Which labels these are, in words."""
        return "on-policy labels" if self.on_policy else "labels (newest period and anchor)"


def exam_of(target_E: Array, period_E: Array) -> Exam:
    """The newest period where it has at least 20 labels of either class, else with an anchor of earlier ones: of each
    class as many as make 100, taken in turn from the periods before, newest first.

    Labels of a period are taken in the order given, which must not depend on what they say.
    """
    newest = period_E == period_E.max(initial=0)
    classes = [np.flatnonzero(side) for side in (target_E > 0.5, target_E < 0.5)]
    if all((newest[one]).sum() >= FEWEST for one in classes):
        return Exam(np.flatnonzero(newest & (target_E != 0.5)), on_policy=True)
    chosen = [np.flatnonzero(newest & (target_E != 0.5))]
    for one in classes:
        earlier = one[~newest[one]]
        room = max(0, ANCHOR_OF_A_CLASS - int(newest[one].sum()))
        chosen.append(np.array(_in_turn(earlier, period_E[earlier])[:room], np.int64))
    return Exam(np.sort(np.concatenate(chosen)), on_policy=False)


def _in_turn(index: Array, period: Array) -> list[int]:
    """One of each period, newest first, then the next one of each."""
    groups = [index[period == p].tolist() for p in sorted(set(period.tolist()), reverse=True)]
    rounds = itertools.zip_longest(*groups)
    return [i for one in rounds for i in one if i is not None]
