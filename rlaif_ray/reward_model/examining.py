"""All that is said of one model on held-out labels: grades, calibration, periods, drift."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlaif_ray.reward_model import periods
from rlaif_ray.reward_model.calibration import Graded, graded, reliability
from rlaif_ray.reward_model.grading import Grade, calibration_figures, grade
from rlaif_ray.reward_model.labelled import Labelled, final_logits, how_to_calibrate, mark, targets, versions
from rlaif_ray.reward_model.losses import mean_belief
from rlaif_ray.reward_model.model import RewardModel
from rlaif_ray.types import Array, PeriodAccuracy

__all__ = ["Examined", "examine"]


@dataclass(frozen=True)
class Examined:
    """One model, graded on labels that it never learned from."""

    pooled: Grade  # on all of them
    exam: Grade  # on those that it is published and rolled back by
    calibration: Graded
    periods: tuple[PeriodAccuracy, ...]

    @property
    def drift_p(self) -> float:
        return periods.drift_p(self.periods)

    @property
    def drift_alarm(self) -> bool:
        """Whether it does clearly worse on the newest period than on those before."""
        return self.drift_p < periods.DRIFT_LEVEL

    def figures(self) -> dict[str, float]:
        """Numbers for a report, ends of intervals included."""
        return {
            **self.pooled.extra(),
            **calibration_figures(self.calibration),
            "exam_n": float(self.exam.n),
            "exam_accuracy": self.exam.gated_by,
            "exam_low": self.exam.gated_interval[0],
            "exam_high": self.exam.gated_interval[1],
        }

    def detail(self) -> dict[str, Any]:
        """What a ``RewardModelReport`` holds besides numbers, and the drift."""
        return {
            "periods": self.periods,
            "reliability": reliability(self.calibration.belief, self.calibration.target),
            "drift_p": self.drift_p,
            "drift_alarm": self.drift_alarm,
        }


def examine(model: RewardModel, held: Sequence[Labelled], logit_KE: Array | None = None) -> Examined:
    """Grade a model; ``logit_KE``: its ``final_logits`` of these labels, where they are at hand."""
    logit_KE = final_logits(model, held) if logit_KE is None else logit_KE
    target, version = targets(held), versions(held)
    belief = mean_belief(logit_KE, model.temperature, model.offset)
    period = periods.periods_of(version, periods.period_length(len(held)))
    exam = periods.exam_of(target, period)
    unknown = np.array([mark(one.key) not in model.calibrated_on for one in held], bool)
    if not model.calibrated_on and not (math.isclose(model.temperature, 1.0) and not model.offset):
        unknown[:] = False  # nobody wrote down what it was set by
    how = how_to_calibrate(model.config, held)
    return Examined(
        pooled=grade(belief, target),
        exam=grade(belief[exam.index], target[exam.index], exam.labels),
        calibration=graded(logit_KE, target, model.temperature, unknown, model.offset, how),
        periods=periods.accuracies(belief, target, version, period),
    )
