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
from rlaif_ray.report.judged import truths_of, verdicts_of
from rlaif_ray.report.run import RunRecord
from rlaif_ray.scorebook import read_scores
from rlaif_ray.types import PeriodAccuracy

__all__ = ["RewardModelSection", "reward_model_section"]

CELLS = ("good_as_good", "good_as_bad", "bad_as_good", "bad_as_bad")
COUNTS = ("first", "last", "good", "good_right", "bad", "bad_right")


@dataclass(frozen=True)
class ConfusionTable:
    """What somebody said against what it is held against."""

    title: str
    says: str  # who: heads the columns
    rows: list[tuple[str, ...]]  # of the good, of the bad: name, said good, said bad, share right with its interval


@dataclass(frozen=True)
class RewardModelSection:
    """What the page shows of the version in service at the end."""

    statements: list[str]
    rows: list[tuple[str, ...]]  # policy versions, good, bad, right, accuracy with its interval
    chart: Markup
    tables: list[ConfusionTable]


def reward_model_section(record: RunRecord) -> RewardModelSection | None:
    """None where the summary has nothing to show."""
    model = record.summary.get("reward_model")
    if not isinstance(model, Mapping):
        return None
    periods = _periods(model.get("periods"))
    if not periods:
        return None
    chart = Markup(_chart(periods, _bins(model.get("reliability"))))
    scores = {one.key: one.belief for one in read_scores(record.path)}
    verdicts = {key: value for key, value in verdicts_of(record) if key in scores}
    said = [*_about(model), *_statements(model, periods[-1]), *_paired(scores, verdicts)]
    tables = [*_heldout(model), *_audit(truths_of(record, verdicts), scores, verdicts)]
    return RewardModelSection(said, [_row(one) for one in periods], chart, tables)


def _about(model: Mapping[str, Any]) -> list[str]:
    """Whose figures these are. Older summaries don't say."""
    if model.get("about") == "candidate":
        return [
            "These are figures of a fit that was refused: no version in service can be graded on labels that it never "
            "learned from."
        ]
    version, gate = number(model, "about_version"), "" if model.get("gate_open") else ", whose gate is shut"
    return [f"These are figures of version {count(version)}, the one in service{gate}."] if version > 0 else []


def _heldout(model: Mapping[str, Any]) -> list[ConfusionTable]:
    cells = [number(model, f"heldout_{cell}") for cell in CELLS]
    if not np.isfinite(cells).all():
        return []
    return [_table("Held-out labels: the reward model against the judge", "reward model", "the judge said", cells)]


def _audit(
    told: Mapping[tuple[int, int], bool],
    scores: Mapping[tuple[int, int], float],
    verdicts: Mapping[tuple[int, int], float],
) -> list[ConfusionTable]:
    """Scores, and verdicts about the same episodes, against what the world itself tells of these."""
    if not told:
        return []
    title = f"Truth (audit only), of {count(len(told))} judged episodes that were drawn from all alike: "
    return [
        _table(title + who, column, "it was", _cells([(values[key], good) for key, good in told.items()]))
        for who, column, values in (
            ("the reward model, by the version they began under", "reward model", scores),
            ("the judge", "judge", verdicts),
        )
    ]


def _cells(pairs: Sequence[tuple[float, bool]]) -> list[float]:
    """Counts in the order of ``CELLS``; what is said to be exactly 1/2 is left out."""
    sides = [(good, value > 0.5) for value, good in pairs if value != 0.5]
    return [float(sides.count(cell)) for cell in ((True, True), (True, False), (False, True), (False, False))]


def _table(title: str, says: str, against: str, cells: Sequence[float]) -> ConfusionTable:
    good_as_good, good_as_bad, bad_as_good, bad_as_bad = cells
    of_good = _share(good_as_good, good_as_good + good_as_bad)
    of_bad = _share(bad_as_bad, bad_as_good + bad_as_bad)
    rows: list[tuple[str, ...]] = [
        (f"{against} good", count(good_as_good), count(good_as_bad), of_good),
        (f"{against} bad", count(bad_as_good), count(bad_as_bad), of_bad),
    ]
    return ConfusionTable(title, says, rows)


def _share(right: float, n: float) -> str:
    """Percent with its Wilson interval; a dash of nothing."""
    if not n:
        return "-"
    return f"{decimal(100 * right / n)} ({_ends(right, n)})"


def _ends(right: float, n: float) -> str:
    low, high = (decimal(100 * end) for end in wilson_interval(right, n))
    return f"{low} to {high}"


def _paired(scores: Mapping[tuple[int, int], float], verdicts: Mapping[tuple[int, int], float]) -> list[str]:
    """Score and verdict about the same episodes, the score by the version that the episode began under."""
    sides = [(scores[key] > 0.5, value > 0.5) for key, value in verdicts.items() if value != 0.5]
    if not sides:
        return []
    alike, n = sum(score == verdict for score, verdict in sides), len(sides)
    return [
        f"On {count(n)} judged episodes, scored by the version they began under, score and verdict agree in "
        f"{decimal(100 * alike / n)} % ({_ends(alike, n)}); scores.csv has them one by one."
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
    share = f"{decimal(100 * one.accuracy)} ({_ends(one.right, one.n)})"
    return f"{count(one.first)} to {count(one.last)}", count(one.good), count(one.bad), count(one.right), share


def _statements(model: Mapping[str, Any], newest: PeriodAccuracy) -> list[str]:
    said = [_on_policy(newest)]
    balanced, low, high = (100 * number(model, key) for key in ("balanced_accuracy", "balanced_low", "balanced_high"))
    if np.isfinite(balanced):
        said.append(
            f"Balanced accuracy on all held-out labels: {decimal(balanced)} % ({decimal(low)} to {decimal(high)})."
        )
    score, low, high = (number(model, key) for key in ("brier", "brier_low", "brier_high"))
    if np.isfinite(score):
        ends = f"{decimal(low, 3)} to {decimal(high, 3)}"
        said.append(f"Brier score: {decimal(score, 3)} ({ends}); not knowing gets 0.250.")
    error, low, high = (
        number(model, key) for key in ("calibration_error", "calibration_error_low", "calibration_error_high")
    )
    if np.isfinite(error):
        said.append(
            f"Expected calibration error: {decimal(error, 3)} ({decimal(low, 3)} to {decimal(high, 3)}), each label "
            "graded by a calibration that doesn't know it."
        )
    if (unused := number(model, "unused_n")) > 0:
        said.append(
            f"{count(unused)} pairs were neither learned from nor held out: they share an episode with held-out ones."
        )
    return [*said, *_alarms(model)]


def _on_policy(newest: PeriodAccuracy) -> str:
    span = f"policy versions {count(newest.first)} to {count(newest.last)}"
    if newest.measurable:
        ends = _ends(newest.right, newest.n)
        return f"On-policy ({span}): {decimal(100 * newest.accuracy)} % agreement with the judge ({ends})."
    why = f"{newest.good} good and {newest.bad} bad held-out labels, where 20 of each are needed"
    if newest.right < newest.n:
        wrong = newest.n - newest.right
        return f"On-policy ({span}): not measurable ({why}); errors: {wrong}, {_share(wrong, newest.n)} %."
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
        ends = np.abs(np.array(wilson(label, size)) - label)
        curve.errorbar(belief, label, yerr=ends, color=BLUE, ecolor="#9CC4DE", linewidth=1, capsize=2)
        curve.scatter(
            belief, label, s=12 + 160 * size / size.max(), color=BLUE, alpha=0.6, label="labels (area: how many)"
        )
    curve.set_title("Reliability", loc="left")
    curve.set_xlabel("belief")
    curve.set_ylabel("judge's mean label (95 % Wilson interval)")
    curve.legend(loc="upper left", frameon=False, fontsize=8.5)
    return svg_text(figure)
