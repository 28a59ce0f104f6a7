"""The charts of a sweep's report, as SVG text; each returns None where there is nothing to show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rlaif_ray.report.charts import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, blank_figure, smooth, svg_text
from rlaif_ray.report.sweep import Arm, SweepRecord, Trial
from rlaif_ray.report.sweep_stats import interquartile_mean, pareto_front, stratified_iqm
from rlaif_ray.types import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["cost_quality_chart", "curves_chart", "front_of", "parallel_chart"]

COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, "#56B4E9", "#B8A800", "#333333")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1, 1, 1)))
MARKS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
GRID_POINTS = 200
MOST_CURVES = 12  # more can't be told apart
TOP = 0.05  # percent: what is nearer to 100 % than that looks like it
WIDE = 10.0  # times the cheapest: beyond it a linear axis hides what is cheap


def _style(i: int) -> tuple[str, Any, str]:
    """Colour, dash and mark of the i-th arm: told apart by two of them where there are more than colours."""
    turn = i // len(COLOURS)
    return COLOURS[i % len(COLOURS)], DASHES[turn % len(DASHES)], MARKS[i % len(MARKS)]


def front_of(record: SweepRecord, unit: str) -> list[Arm]:
    """The arms on the Pareto front of stand-alone cost and interquartile mean, cheapest first."""
    arms = [arm for arm in record.arms if arm.ended]
    if not arms:
        return []
    cost = np.array([float(np.nanmean(arm.costs(unit))) for arm in arms])
    quality = np.array([interquartile_mean(arm.outcomes(record.value)) for arm in arms])
    on = [i for i in np.argsort(cost, kind="stable") if pareto_front(cost, quality)[i]]
    return [arms[i] for i in on]


def cost_quality_chart(record: SweepRecord, unit: str) -> str | None:
    """Stand-alone cost against each outcome: a point a trial, a large one an arm with its interval; the front."""
    arms = [(i, arm) for i, arm in enumerate(record.arms) if arm.ended]
    if not arms or not record.outcome_names:
        return None
    names = record.outcome_names[::-1][:2]  # the value first
    figure, many = blank_figure(len(names))
    for axes, name in zip(many, names, strict=True):
        for i, arm in arms:
            _arm_points(axes, arm, arm.costs(unit), arm.outcomes(name), _style(i))
        axes.set_title(f"{name.replace('_', ' ')} (truth), %", loc="left")
        axes.set_xlabel(f"stand-alone cost of a run, {_unit(record, unit)}")
        _scale(axes, record, unit)
        _percent_scale(axes)
    front = front_of(record, unit)
    points = [(float(np.nanmean(a.costs(unit))), interquartile_mean(a.outcomes(record.value))) for a in front]
    many[0].plot(*zip(*points, strict=True), color=GREY, linewidth=1, zorder=0, label="Pareto front")
    handles, labels = many[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)
    return svg_text(figure)


def _arm_points(axes: Axes, arm: Arm, costs: Array, outcomes: Array, style: tuple[str, Any, str]) -> None:
    colour, _, mark = style
    axes.scatter(costs, outcomes, s=14, color=colour, alpha=0.45, linewidths=0, marker=mark)
    middle = stratified_iqm([outcomes])
    if not math.isfinite(middle.value):
        return
    error = None
    if math.isfinite(middle.low):
        error = [[max(0.0, middle.value - middle.low)], [max(0.0, middle.high - middle.value)]]
    cost = float(np.nanmean(costs))
    # Hollow: good arms lie one upon the other, at the top.
    axes.errorbar(
        [cost], [middle.value], yerr=error, fmt=mark, color=colour, capsize=3, markersize=8, markerfacecolor="none",
        markeredgewidth=1.6, label=arm.name, clip_on=False,
    )  # fmt: skip


def _scale(axes: Axes, record: SweepRecord, unit: str) -> None:
    """From none; logarithmic above the cheapest where a linear axis would hide the cheap ones."""
    costs = np.concatenate([arm.costs(unit) for arm in record.arms])
    costs = costs[np.isfinite(costs) & (costs > 0)]
    if len(costs) and costs.max() > WIDE * costs.min():
        axes.set_xscale("symlog", linthresh=float(costs.min()))
    axes.set_xlim(left=-0.02 * float(costs.max(initial=1.0)))  # a point at no cost is seen whole


def _percent_scale(axes: Axes) -> None:
    """There is no 104 % of episodes; and where all is near 100 % but for a few, tenths of a percent are what counts."""
    low, high = axes.get_ylim()
    if high < 99.0 or low > 97.0:
        axes.set_ylim(max(low, -2.0), min(high, 100.0 + 0.05 * (100.0 - low)))
        return

    def opened(percent: Array) -> Array:
        return -np.log10(100.0 + TOP - np.minimum(percent, 100.0))

    def closed(height: Array) -> Array:
        return 100.0 + TOP - 10.0 ** (-np.asarray(height))

    axes.set_yscale("function", functions=(opened, closed))
    axes.set_ylim(max(low, 0.0), 100.0)
    ticks = [0.0, 50.0, 80.0, 90.0, 95.0, 99.0, 99.5, 99.9, 100.0]
    axes.set_yticks([tick for tick in ticks if tick >= low])
    axes.yaxis.set_major_formatter("{x:g}")


def _unit(record: SweepRecord, unit: str) -> str:
    return "labels" if unit == "labels" else "USD" + (" (as-if)" if record.as_if else "")


def curves_chart(record: SweepRecord) -> str | None:
    """Training episodes' outcomes over steps: the interquartile mean of an arm's seeds, and their range."""
    arms = [(i, arm) for i, arm in enumerate(record.arms) if arm.run][:MOST_CURVES]
    names = [name for name in record.outcome_names[::-1][:2] if any(_has(arm, f"truth/{name}") for _, arm in arms)]
    if not names:
        return None
    figure, many = blank_figure(len(names))
    for axes, name in zip(many, names, strict=True):
        for i, arm in arms:
            _curve(axes, arm, f"truth/{name}", _style(i))
        axes.set_title(f"{name.replace('_', ' ')} (truth, training episodes), %", loc="left")
        axes.set_xlabel("million environment steps")
        axes.set_ylim(0, 101)
    handles, labels = many[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)
    return svg_text(figure)


def _has(arm: Arm, key: str) -> bool:
    return any(trial.record is not None and trial.record.has(key) for trial in arm.trials)


def _curve(axes: Axes, arm: Arm, key: str, style: tuple[str, Any, str]) -> None:
    series = [found for trial in arm.trials if (found := _series(trial, key)) is not None]
    if not series:
        return
    grid = np.linspace(0, max(float(steps[-1]) for steps, _ in series), GRID_POINTS)
    rows = np.stack([np.interp(grid, steps, values, left=np.nan, right=np.nan) for steps, values in series])
    grid, rows = grid[np.isfinite(rows).any(axis=0)], rows[:, np.isfinite(rows).any(axis=0)]
    middle = np.array([interquartile_mean(column) for column in rows.T])
    colour, dash, _ = style
    axes.plot(grid / 1e6, middle, color=colour, linestyle=dash, linewidth=1.6, label=arm.name)
    if len(series) > 1:
        axes.fill_between(
            grid / 1e6, np.nanmin(rows, axis=0), np.nanmax(rows, axis=0), color=colour, alpha=0.12, linewidth=0
        )


def _series(trial: Trial, key: str) -> tuple[Array, Array] | None:
    """(steps, percent, smoothed) where the column was known."""
    if trial.record is None or not trial.record.has(key):
        return None
    values = 100 * smooth(trial.record.column(key))
    known = np.isfinite(values)
    return trial.record.column("steps")[known], values[known]


# ------------------------------------------------------------------------------------------- parallel coordinates


def parallel_chart(record: SweepRecord) -> str | None:
    """A line a trial through what was set for it, what it used and what came of it; coloured by the value."""
    trials = [trial for trial in record.trials if trial.evaluation]
    keys = _varied([trial.point for trial in trials])
    if len(trials) < 2 or not keys:
        return None
    names = record.outcome_names
    columns: dict[str, list[Any]] = {key.rpartition(".")[2]: [trial.point.get(key) for trial in trials] for key in keys}
    columns["labels used"] = [trial.cost("labels") for trial in trials]
    columns |= {f"{name.replace('_', ' ')} %": [100 * float(t.evaluation[name]) for t in trials] for name in names}
    from matplotlib import colormaps

    figure, (axes,) = blank_figure(1)
    heights = np.stack([_heights(axes, i, values) for i, values in enumerate(columns.values())])
    shade = colormaps["viridis"]
    for i in range(len(trials)):
        axes.plot(range(len(columns)), heights[:, i], color=shade(heights[-1, i]), alpha=0.7, linewidth=1.3)
    for x in range(len(columns)):
        axes.axvline(x, color="#333333", linewidth=0.8)
    axes.set_xticks(range(len(columns)), list(columns))
    axes.set_yticks([])
    axes.set_ylim(-0.1, 1.1)
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    return svg_text(figure)


def _varied(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys that differ between trials."""
    keys = dict.fromkeys(key for point in points for key in point)
    return [key for key in keys if len({str(point.get(key)) for point in points}) > 1]


def _heights(axes: Axes, x: int, values: Sequence[Any]) -> Array:
    """(trials,) in [0, 1] along one axis, with its values written beside it; words are evenly spaced."""
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        numbers = np.array(values, np.float64)
        low, high = float(np.nanmin(numbers)), float(np.nanmax(numbers))
        heights = (numbers - low) / (high - low) if high > low else np.full(len(numbers), 0.5)
        ticks = [(0.0, f"{low:.4g}"), (1.0, f"{high:.4g}")] if high > low else [(0.5, f"{low:.4g}")]
    else:
        words = sorted({str(v) for v in values if v is not None}) or ["-"]
        place = {word: i / max(1, len(words) - 1) for i, word in enumerate(words)}
        heights = np.array([place.get(str(v), -0.06) for v in values])  # not set: below the axis
        ticks = [(height, word) for word, height in place.items()]
    for height, word in ticks:
        axes.text(x + 0.02, height, word, fontsize=8, va="center", bbox={"facecolor": "white", "alpha": 0.7, "lw": 0})
    return np.nan_to_num(heights, nan=-0.06)
