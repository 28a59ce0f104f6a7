"""The report's section on the reward model: held-out agreement by policy version, reliability, drift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from rlaif_ray.intervals import wilson, wilson_interval
from rlaif_ray.report.charts import BLUE, GREEN, GREY, blank_figure, svg_text
from rlaif_ray.report.figures import count, decimal, number
from rlaif_ray.report.judged import verdicts_of
from rlaif_ray.report.run import RunRecord
from rlaif_ray.scorebook import read_scores
from rlaif_ray.types import PeriodAccuracy

__all__ = ["RewardModelSection", "reward_model_section"]

COUNTS = ("first", "last", "good", "good_right", "bad", "bad_right")


@dataclass(frozen=True)
class RewardModelSection:
    """What the page shows of the version in service at the end."""

    statements: list[str]
    rows: list[tuple[str, ...]]  # policy versions, good, bad, right, accuracy with its interval
    chart: Markup


def reward_model_section(record: RunRecord) -> RewardModelSection | None:
    """None where the summary has nothing to show."""
    model = record.summary.get("reward_model")
    if not isinstance(model, Mapping):
        return None
    periods = _periods(model.get("periods"))
    if not periods:
        return None
    chart = Markup(_chart(periods, _bins(model.get("reliability"))))
    said = [*_statements(model, periods[-1]), *_paired(record)]
    return RewardModelSection(said, [_row(one) for one in periods], chart)


def _paired(record: RunRecord) -> list[str]:
    """Score and verdict about the same episodes, the score by the version that the episode began under."""
    scores = {one.key: one.belief for one in read_scores(record.path)}
    verdicts = [(scores[i], value) for i, value in verdicts_of(record) if i in scores and value != 0.5]
    if not verdicts:
        return []
    alike, n = sum((belief > 0.5) == (value > 0.5) for belief, value in verdicts), len(verdicts)
    low, high = (100 * end for end in wilson_interval(alike, n))
    return [
        f"On {count(n)} judged episodes, scored by the version they began under, score and verdict agree in "
        f"{decimal(100 * alike / n)} % ({decimal(low)} to {decimal(high)}); scores.csv has them one by one."
    ]


def _periods(listed: object) -> list[PeriodAccuracy]:
    """As far as the file holds what it should."""
    rows = [one for one in listed if isinstance(one, Mapping)] if isinstance(listed, list) else []
    whole = [row for row in rows if all(isinstance(row.get(name), int) for name in COUNTS)]
    return [PeriodAccuracy(*(row[name] for name in COUNTS)) for row in whole]


def _bins(listed: object) -> list[tuple[float, float, float]]:
    rows = [one for one in listed if isinstance(one, Mapping)] if isinstance(listed, list) else []
    found = [(number(row, "belief"), number(row, "label"), number(row, "n")) for row in rows]
    return [one for one in found if np.isfinite(one).all()]


def _row(one: PeriodAccuracy) -> tuple[str, ...]:
    low, high = wilson_interval(one.right, one.n)
    share = f"{decimal(100 * one.accuracy)} ({decimal(100 * low)} to {decimal(100 * high)})"
    return f"{count(one.first)} to {count(one.last)}", count(one.good), count(one.bad), count(one.right), share


def _statements(model: Mapping[str, Any], newest: PeriodAccuracy) -> list[str]:
    said = [_on_policy(newest)]
    balanced, low, high = (100 * number(model, key) for key in ("balanced_accuracy", "balanced_low", "balanced_high"))
    if np.isfinite(balanced):
        said.append(
            f"Balanced accuracy on all held-out labels: {decimal(balanced)} % ({decimal(low)} to {decimal(high)})."
        )
    error, low, high = (
        number(model, key) for key in ("calibration_error", "calibration_error_low", "calibration_error_high")
    )
    if np.isfinite(error):
        said.append(
            f"Expected calibration error: {decimal(error, 3)} ({decimal(low, 3)} to {decimal(high, 3)}), each label "
            "graded by a temperature that doesn't know it."
        )
    if (unused := number(model, "unused_n")) > 0:
        said.append(
            f"{count(unused)} pairs were neither learned from nor held out: they share an episode with held-out ones."
        )
    return [*said, *_alarms(model)]


def _on_policy(newest: PeriodAccuracy) -> str:
    span = f"policy versions {count(newest.first)} to {count(newest.last)}"
    if newest.measurable:
        return f"On-policy ({span}): {decimal(100 * newest.accuracy)} % agreement with the judge."
    why = f"{newest.good} good and {newest.bad} bad held-out labels, where 20 of each are needed"
    if newest.right < newest.n:
        return f"On-policy ({span}): not measurable ({why}); errors: {newest.n - newest.right}."
    bound = f"at most {decimal(100 * newest.zero_error_bound)} % errors by the rule of three"
    return f"On-policy ({span}): not measurable ({why}); no error was seen, so {bound}."


def _alarms(model: Mapping[str, Any]) -> list[str]:
    fits, back, alarms = (number(model, key) for key in ("fits", "rolled_back", "drift_alarms"))
    said = []
    if np.isfinite(fits):
        said.append(f"Of {count(fits)} fits {count(back)} were rolled back; {count(alarms)} had a drift alarm.")
    return said


def _chart(periods: Sequence[PeriodAccuracy], bins: Sequence[tuple[float, float, float]]) -> str:
    figure, (agreement, curve) = blank_figure(2)
    accuracy, n = (np.array([getattr(one, name) for one in periods], float) for name in ("accuracy", "n"))
    low, high = wilson(accuracy, n)
    middle = np.array([(one.first + one.last) / 2 for one in periods])
    span = np.array([(one.last - one.first) / 2 for one in periods])
    ends = [100 * np.clip(accuracy - low, 0, None), 100 * np.clip(high - accuracy, 0, None)]
    agreement.errorbar(middle, 100 * accuracy, yerr=ends, xerr=span, fmt="o", color=GREEN, ecolor="#9ED3C0", capsize=2)
    agreement.set_title("Held-out agreement with the judge, by policy version", loc="left")
    agreement.set_xlabel("policy version (bars: span, 95 % Wilson interval)")
    agreement.set_ylabel("%")
    agreement.set_ylim(min(45.0, 100 * float(np.nanmin(low)) - 2), 101)
    curve.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="as good as its word")
    if bins:
        belief, label, size = (np.array(column) for column in zip(*bins, strict=True))
        curve.plot(belief, label, color=BLUE, linewidth=1)
        curve.scatter(
            belief, label, s=12 + 160 * size / size.max(), color=BLUE, alpha=0.6, label="labels (area: how many)"
        )
    curve.set_title("Reliability", loc="left")
    curve.set_xlabel("belief")
    curve.set_ylabel("judge's mean label")
    curve.legend(loc="upper left", frameon=False, fontsize=8.5)
    return svg_text(figure)
