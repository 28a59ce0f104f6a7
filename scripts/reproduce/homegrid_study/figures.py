"""The study's charts, each from the stored results alone: ``scripts/reproduce/homegrid figure NAME``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from homegrid_study.arms import AUDIT, Layout
from homegrid_study.stored import REFERENCE, Results, Row
from rlaif_ray.errors import UnknownNameError
from rlaif_ray.report.charts import BLUE, ORANGE, blank_figure, svg_text
from rlaif_ray.report.figures import count
from rlaif_ray.report.sweep_charts import COLOURS, cost_quality_chart, curves_chart
from rlaif_ray.report.sweep_stats import interquartile_mean
from rlaif_ray.types import Array

__all__ = ["FIGURES", "MARK", "write_figures"]

GRID = 120
MARK = 99.0  # percent: what every seed was to reach
# Arms whose reward model's curve is shown: those that differ in labels and nets.
CURVES = ("online", "online_structured", "labels_100", "labels_250", "labels_1000", "cnn_lstm")


def cost_quality(results: Results) -> str | None:
    """Labels, those of what an arm began with included, against what came of it."""
    rows = _shown(results)
    return cost_quality_chart(results.record(rows), "labels") if rows else None


def learning_curves(results: Results) -> str | None:
    """Outcomes of training episodes over steps, those of what an arm began with before it: task, published, online."""
    return _curves(results, ("task", "published", "online"))


def shares(results: Results) -> str | None:
    """Outcomes of training episodes over steps: direct, distilled and hybrid, each going on from a task-only policy."""
    return _curves(results, ("direct", "hybrid"))


def _curves(results: Results, studies: Sequence[str]) -> str | None:
    rows = [row for row in _shown(results) if row.study in studies]
    return curves_chart(results.record(rows)) if rows else None


def _shown(results: Results) -> list[Row]:
    """Headline arms under one judge: those of the other lie on top of them, and are in the tables."""
    return [row for row in results.headline if row.ended and not row.arm.endswith("structured")]


def budgets(results: Results) -> str | None:
    """Survival and success by the number of labels, with each seed's own."""
    rows = [row for row in (*results.trained("budgets"), results.rows[REFERENCE]) if row.ended]
    rows = [row for row in rows if not row.arm.startswith("structured")]  # another judge's
    rows.sort(key=lambda row: float(np.nanmean(row.chain("labels"))))
    if len(rows) < 2:
        return None
    figure, (axes,) = blank_figure(1)
    for name, colour in (("cat_survived", BLUE), ("found", ORANGE)):
        labels = [float(np.nanmean(row.chain("labels"))) for row in rows]
        middle = [100 * interquartile_mean(row.outcome(name)) for row in rows]
        axes.plot(labels, middle, color=colour, marker="o", label=f"{name.replace('_', ' ')}, %")
        for row, x in zip(rows, labels, strict=True):
            axes.scatter(np.full(len(row.results), x), 100 * row.outcome(name), s=12, color=colour, alpha=0.4)
    axes.set_xscale("log")
    axes.set_xticks(labels, [count(one) for one in labels])
    axes.minorticks_off()
    axes.set_xlabel("labels")
    axes.set_ylim(min(MARK, axes.get_ylim()[0]), 100.05)  # some episodes of 10,000 are no slope
    axes.legend(frameon=False)
    return svg_text(figure)


def reward_models(results: Results) -> str | None:
    """Held-out accuracy over training, and right answers against the truth."""
    rows = [row for row in results.trained() if row.arm in CURVES and row.ended]
    audit = results.rows.get((AUDIT, "nets"))
    if not rows:
        return None
    figure, (left, right) = blank_figure(2)
    for i, row in enumerate(rows):
        steps, accuracy = _curve(row)
        left.plot(steps / 1e6, accuracy, color=COLOURS[i % len(COLOURS)], label=row.arm)
    left.set_title("balanced accuracy on held-out labels, %", loc="left")
    left.set_xlabel("million environment steps")
    left.legend(frameon=False, fontsize=8)
    for i, net in enumerate(("event-max", "cnn-lstm")):
        values = [100 * one["nets"][net]["balanced"] for one in (audit.ended if audit else [])]
        right.scatter(np.full(len(values), i), values, color=COLOURS[i])
    right.set_xticks([0, 1], ["event-max", "cnn-lstm"])
    right.set_xlim(-0.5, 1.5)
    right.set_title("balanced accuracy against the truth, 250 labels, %", loc="left")
    return svg_text(figure)


def _curve(row: Row) -> tuple[Array, Array]:
    """Steps, and the interquartile mean over seeds in percent."""
    series = []
    for one in row.ended:
        pairs = [(r["steps"], r.get("rm/balanced_accuracy")) for r in one["rows"]]
        known = [(step, value) for step, value in pairs if value is not None and math.isfinite(value)]
        if known:
            series.append(np.array(known, np.float64))
    if not series:
        return np.zeros(0), np.zeros(0)
    grid = np.linspace(min(s[0, 0] for s in series), max(s[-1, 0] for s in series), GRID)
    rows = np.stack([np.interp(grid, s[:, 0], s[:, 1], left=np.nan) for s in series])
    return grid, np.array([100 * interquartile_mean(column) for column in rows.T])


FIGURES: dict[str, Callable[[Results], str | None]] = {
    "cost-quality": cost_quality,
    "learning-curves": learning_curves,
    "shares": shares,
    "label-budgets": budgets,
    "reward-models": reward_models,
}


def write_figures(layout: Layout, name: str = "", results: Results | None = None) -> Sequence[Path]:
    """The named figure, or all, as SVG files in ``study/`` beside STUDY.md; none where nothing is stored to show.

    Raises UnknownNameError.
    """
    if name and name not in FIGURES:
        raise UnknownNameError("figure", name, FIGURES)
    results = results or Results.read(layout)
    written = []
    for one in [name] if name else FIGURES:
        path = layout.docs / "study" / f"{one}.svg"
        text = FIGURES[one](results)
        if text is None:
            path.unlink(missing_ok=True)  # of results that are gone
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        written.append(path)
    return written
