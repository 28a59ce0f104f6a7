"""Answers take seconds: how many to wait for, and how late those that came were learned from. Pure."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from rlaif_ray.config import FeedbackConfig
from rlaif_ray.mixing import DIRECT
from rlaif_ray.types import Array

__all__ = ["Lateness", "WaitPlan"]

# The slowest of some hundred answers takes about twice the mean (log-normal, nine of ten within a factor of two);
# another half for the slots that end up with more than their share, and for drawing.
_SLOWEST = 2.5
# After all came in time, so many times as many may be tried as before.
_GROWTH = 1.25
# Of as many as came before a deadline, so many are asked next: some came just in time.
_MARGIN = 0.8
# An iteration's weight in how many answers one brings: some ten of them are looked back on.
_NEWEST = 0.1


@dataclass(frozen=True)
class WaitPlan:
    """How many questions can be asked together so that all are answered before a deadline.

    Where answers are waited for: questions of mean latency m, c of them in flight, the last of which may be slow: n of
    them take at most about m (n / c + 1.5). What the latency doesn't tell (rate limits, drawing, a busy machine) shows
    when a wait runs out. Where episodes are kept back for them: as many as the iterations of that time have answered,
    since the next one waits behind all others; and those that the judge answers at once, which wait behind none.
    """

    latency_s: float = 0.0  # measured, mean; 0: not yet
    most: float = math.inf  # what the last wait that ran out has shown to be possible
    rate: float = 0.0  # answers an iteration

    def questions(self, concurrency: int, wait_s: float) -> int:
        """So many. One wave where no latency has been measured; at least one, which measures it again."""
        if self.latency_s <= 0.0:
            planned = float(concurrency)
        else:
            planned = concurrency * (wait_s / self.latency_s - (_SLOWEST - 1.0))
        return max(1, math.floor(min(planned, self.most)))

    def limit(self, feedback: FeedbackConfig, in_flight: int) -> float:
        """Most questions of this iteration whose answers can come in time; inf where no time is set."""
        if feedback.late == "rm":
            return math.inf
        if feedback.late == "defer":
            together = max(feedback.concurrency, math.floor(_MARGIN * self.rate * feedback.defer_iterations))
        else:
            together = self.questions(feedback.concurrency, feedback.wait_s)
        return max(0, together - in_flight)

    def heard(self, answers: int) -> WaitPlan:
        """The plan after another iteration, which brought so many."""
        return replace(self, rate=self.rate + _NEWEST * (answers - self.rate))

    def measured(self, latency_s: float) -> WaitPlan:
        """The plan with another mean latency."""
        return replace(self, latency_s=latency_s)

    def after(self, answered: int, left: int) -> WaitPlan:
        """The plan after a wait in which so many were answered and so many were not."""
        return replace(self, most=max(1.0, _MARGIN * answered) if left else max(_GROWTH * self.most, answered))


@dataclass
class Lateness:
    """Over a run: what became of verdicts, by how late they came."""

    verdicts: int = 0  # that came, in time or not
    direct: Counter[int] = field(default_factory=Counter)  # iterations from an episode's end to learning -> episodes
    missed: int = 0  # episodes kept back in vain: their deadline came first
    dropped_steps: int = 0
    turned_away: int = 0  # questions not put because too many waited for an answer

    def learned(self, origin: Array, waited: int = 0) -> None:
        """Episodes of these provenances were learned from, so many iterations after they ended."""
        if episodes := int((origin == DIRECT).sum()):
            self.direct[waited] += episodes

    def figures(self) -> dict[str, Any]:
        """For a summary; staleness in iterations (whole distribution: ``iterations``), None where there is none."""
        ages = np.array(sorted(self.direct.elements()), np.int64)

        def at(share: float) -> int | None:
            return int(np.quantile(ages, share, method="inverted_cdf")) if len(ages) else None

        return {
            "verdicts": self.verdicts,
            "learned_directly": len(ages),
            "staleness_mean": float(ages.mean()) if len(ages) else None,
            "staleness_median": at(0.5),
            "staleness_p95": at(0.95),
            "staleness_max": at(1.0),
            "iterations": {str(age): count for age, count in sorted(self.direct.items())},
            "past_deadline": self.missed,
            "dropped_steps": self.dropped_steps,
            "turned_away": self.turned_away,
        }
