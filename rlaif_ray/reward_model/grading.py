"""How a fit is graded on held-out labels, and what becomes of it: published, refused or rolled back. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rlaif_ray.intervals import absolute_interval, balanced_interval, bootstrap_interval, wilson_interval
from rlaif_ray.reward_model import losses
from rlaif_ray.reward_model.calibration import Graded
from rlaif_ray.reward_model.noise import FlipRates, perfect_agreement
from rlaif_ray.types import Array

__all__ = ["Decision", "Grade", "calibration_figures", "ceiling", "decide", "gate_shut_because", "grade"]


@dataclass(frozen=True)
class Grade:
    """How one model did on E labels. Intervals are of 95 %."""

    belief: Array  # (E,)
    target: Array  # (E,)
    table: losses.Confusion
    accuracy: float  # agreement, nan for no labels
    balanced: float  # nan where a class is missing
    labels: str = "labels"  # which ones, in words

    @staticmethod
    def none() -> Grade:
        """The grade of a fit that wasn't made."""
        empty = np.zeros(0, np.float32)
        return grade(empty, empty)

    @property
    def n(self) -> int:
        return len(self.table)

    @property
    def interval(self) -> tuple[float, float]:
        """Of the accuracy (Wilson)."""
        return wilson_interval(self.table.right, self.n)

    @property
    def balanced_interval(self) -> tuple[float, float]:
        """Of the balanced accuracy."""
        table = self.table
        return balanced_interval((table.good_as_good, table.bad_as_bad), (table.good, table.bad))

    @property
    def gated_by(self) -> float:
        """Balanced accuracy; the plain one where a class is missing."""
        return self.accuracy if math.isnan(self.balanced) else self.balanced

    @property
    def gated_interval(self) -> tuple[float, float]:
        """Of that one."""
        return self.interval if math.isnan(self.balanced) else self.balanced_interval

    def extra(self) -> dict[str, float]:
        """What a report says besides: counts of the confusion, and ends of intervals."""
        table, balanced = self.table, self.balanced_interval
        return {
            "heldout_high": self.interval[1],
            "balanced_low": balanced[0],
            "balanced_high": balanced[1],
            "heldout_good_as_good": float(table.good_as_good),
            "heldout_good_as_bad": float(table.good_as_bad),
            "heldout_bad_as_good": float(table.bad_as_good),
            "heldout_bad_as_bad": float(table.bad_as_bad),
        }


def calibration_figures(one: Graded) -> dict[str, float]:
    """Brier score and expected calibration error, each with the ends of its 95 % interval (bootstrap, seeded)."""
    found: dict[str, float] = {}
    ends = {
        "brier": bootstrap_interval(losses.brier, one.belief, one.target),
        "calibration_error": absolute_interval(losses.calibration_gaps, one.belief, one.target),
    }
    for name, figure in (("brier", losses.brier), ("calibration_error", losses.expected_calibration_error)):
        low, high = ends[name]
        found |= {name: figure(one.belief, one.target), f"{name}_low": low, f"{name}_high": high}
    return found


@dataclass(frozen=True)
class Decision:
    """What becomes of a fit."""

    candidate: Grade | None  # None: no fit was made
    shown: Grade | None  # of the model the report is about
    gate_open: bool
    publish: bool = False
    reason: str = ""


def grade(belief_E: Array, target_E: Array, labels: str = "labels") -> Grade:
    """(E,) final beliefs against (E,) targets in [0, 1]; ``labels`` says which ones these are."""
    return Grade(
        belief=belief_E,
        target=target_E,
        table=losses.Confusion.of(belief_E, target_E),
        accuracy=losses.agreement(belief_E, target_E),
        balanced=losses.balanced_accuracy(belief_E, target_E),
        labels=labels,
    )


def gate_shut_because(held: Grade, gate_accuracy: float) -> str:
    """Why this grade doesn't open the gate; empty: it does."""
    if held.gated_by >= gate_accuracy:
        return ""
    kind = "plain" if math.isnan(held.balanced) else "balanced"
    return (
        f"{kind} held-out accuracy {held.gated_by:.1%} on {held.n} {held.labels} is below the gate's "
        f"{gate_accuracy:.1%}"
    )


def ceiling(held: Grade, flips: FlipRates | None, said_good: float) -> str:
    """How well a model without mistakes would do by this grade's kind of accuracy, if a judge flips labels like that
    and calls such a share good; empty: it is not known to flip any."""
    if not flips or math.isnan(said_good):
        return ""
    plain, balanced = perfect_agreement(flips, said_good)
    best = plain if math.isnan(held.balanced) or math.isnan(balanced) else balanced
    return (
        f" (labels have the judge's mistakes in them: of estimated {flips.bad_as_good:.1%} bad called good and "
        f"{flips.good_as_bad:.1%} good called bad a perfect model would get {best:.1%})"
    )


def decide(*, candidate: Grade, on_training: Grade, incumbent: Grade | None, gate_accuracy: float) -> Decision:
    """Publish the candidate, refuse it, or keep the incumbent. Grades (but ``on_training``) are on held-out labels.

    * A candidate that didn't even learn its own training labels of both classes is refused: where the held-out labels
      lack a class, "always good" would pass otherwise. (``Grade.none()`` refuses nothing.)
    * With its gate shut it is never published. The incumbent stays in service, is what the report is about, and counts
      as long as *it* still passes.
    * With its gate open it replaces an incumbent unless that passes too and the candidate is clearly worse (paired).
    """
    shut = gate_shut_because(candidate, gate_accuracy)
    if not shut and on_training.gated_by < gate_accuracy:
        shut = f"balanced accuracy on its own training labels is {on_training.gated_by:.1%}: one class was not learned"
    old_shut = "" if incumbent is None else gate_shut_because(incumbent, gate_accuracy)
    if incumbent is not None and not old_shut:
        if shut:
            return Decision(candidate, incumbent, gate_open=True, reason=f"rolled back: {shut}")
        if losses.clearly_worse(candidate.belief, incumbent.belief, candidate.target):
            reason = (
                f"rolled back: the new fit got {candidate.table.right} of {candidate.n} held-out {candidate.labels} "
                f"right, the version in service {incumbent.table.right}"
            )
            return Decision(candidate, incumbent, gate_open=True, reason=reason)
    if shut and incumbent is not None:
        reason = f"the new fit: {shut}; the version in service: {old_shut}"
        return Decision(candidate, incumbent, gate_open=False, reason=reason)
    if shut:
        return Decision(candidate, candidate, gate_open=False, reason=shut)
    return Decision(candidate, candidate, gate_open=True, publish=True)
