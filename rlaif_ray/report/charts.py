"""The report's charts, as SVG text: learning curves (proxy against truth), provenance, labels and spend, the reward
model by version, and where the time went. Each returns None where the run has nothing to show.

Colours are Okabe and Ito's (2008), told apart by the colour-blind; truth is drawn solid, proxies dashed.
"""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from rlaif_ray.intervals import wilson
from rlaif_ray.report.figures import number
from rlaif_ray.report.run import RunRecord
from rlaif_ray.report.telling import TELLINGS, Telling
from rlaif_ray.types import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "blank_figure",
    "money_chart",
    "outcome_chart",
    "provenance_chart",
    "reward_model_chart",
    "smooth",
    "svg_text",
    "time_chart",
    "watch_chart",
]

BLUE, ORANGE, GREEN, RED, PURPLE, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#8A8F98"
SOURCES = (  # of an episode's reward
    ("mix/share_direct", "direct: the judge's verdict", BLUE),
    ("mix/share_distilled", "distilled: the reward model", GREEN),
    ("mix/share_abstained", "asked, but the judge abstained", RED),
    ("mix/share_task", "task reward only", "#C9CDD3"),
    ("mix/share_dropped", "not learned from", "#3B4048"),
)
TIMES = (
    ("time/sample_s", "acting", BLUE),
    ("time/score_s", "scoring", GREEN),
    ("time/learn_s", "learning", ORANGE),
    ("time/sync_s", "handing out weights", PURPLE),
    ("time/ask_s", "handing over questions", GREY),
    ("time/wait_s", "waiting for the judge", RED),
)
SMOOTH_OVER = 9  # iterations; odd, so that the mean is centred


def smooth(values: Array, over: int = SMOOTH_OVER, weight: Array | None = None) -> Array:
    """(I,) centred moving mean that leaves nan out; nan where the whole window is. ``weight`` (I,): how much each
    counts; nan is 0."""
    known = np.isfinite(values)
    kernel = np.ones(over)
    counts = known.astype(float) if weight is None else known * np.nan_to_num(weight)
    total = np.convolve(np.where(known, values, 0.0) * counts, kernel, mode="full")
    n = np.convolve(counts, kernel, mode="full")
    cut = slice(over // 2, over // 2 + len(values))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(n[cut] > 0, total[cut] / n[cut], np.nan)


def _telling(record: RunRecord) -> Telling:
    return next((one for one in TELLINGS if record.has(f"truth/{one.outcome}")), TELLINGS[0])


def outcome_chart(record: RunRecord) -> str | None:
    """Truth beside its proxies: the task's and the feedback's."""
    if not record.has("steps"):
        return None
    figure, (task, feedback) = blank_figure(2)
    telling = _telling(record)
    _line(task, record, "truth/found", f"{telling.goal} found (truth)", BLUE, scale=100)
    _line(task, record, "task/episode_return_mean", "task return x 100 (proxy)", ORANGE, scale=100, dashed=True)
    _percent_axis(task, "The task: truth and proxy")
    _line(feedback, record, f"truth/{telling.outcome}", f"{telling.unharmed} (truth)", BLUE, scale=100)
    _line(feedback, record, "rm/score_mean", "reward model's belief (proxy)", GREEN, scale=100, dashed=True)
    approves = {"scale": 100, "dashed": True, "mean": True, "weight": "feedback/stands_for"}
    _line(feedback, record, "feedback/approval_rate", "judge approves (proxy)", RED, **approves)
    _percent_axis(feedback, "The value: truth and proxy")
    return _finish(figure, record, (task, feedback))


def provenance_chart(record: RunRecord) -> str | None:
    """Stacked: where the reward of the episodes learned from came from."""
    if not any(record.has(key) for key, _, _ in SOURCES):
        return None
    figure, (axes,) = blank_figure(1)
    shares = [100 * np.nan_to_num(smooth(record.column(key))) for key, _, _ in SOURCES]
    labels = [name for _, name, _ in SOURCES]
    axes.stackplot(_steps(record), *shares, labels=labels, colors=[c for _, _, c in SOURCES], linewidth=0)
    _percent_axis(axes, "Where each episode's reward came from")
    return _finish(figure, record, (axes,))


def money_chart(record: RunRecord) -> str | None:
    """Labels bought and money spent, each against its cap."""
    if not record.has("feedback/labels"):
        return None
    figure, (labels, spend) = blank_figure(2)
    budget = record.config.budget if record.config else None
    _line(labels, record, "feedback/labels", "labels bought", BLUE)
    _cap(labels, None if budget is None or budget.labels is None else float(budget.labels))
    labels.set_title("Labels", loc="left")
    as_if = record.config is not None and record.config.judge.as_if
    _line(spend, record, "feedback/spend_usd", "spent", RED)
    _cap(spend, None if budget is None else budget.usd)
    spend.set_title("Spend, USD" + (" (as-if: nothing was paid)" if as_if else ""), loc="left")
    for axes in (labels, spend):
        axes.set_ylim(bottom=0)
    return _finish(figure, record, (labels, spend))


def reward_model_chart(record: RunRecord) -> str | None:
    """Held-out agreement with the judge, version by version, against the gate."""
    versions = reward_model_versions(record)
    if not versions:
        return None
    from matplotlib.ticker import MaxNLocator

    figure, (axes,) = blank_figure(1)
    version, accuracy, n = (np.array(column, float) for column in zip(*versions, strict=True))
    low, high = wilson(accuracy, n)
    axes.errorbar(
        version,
        100 * accuracy,
        yerr=[100 * np.clip(accuracy - low, 0, None), 100 * np.clip(high - accuracy, 0, None)],
        fmt="o-",
        color=GREEN,
        ecolor="#9ED3C0",
        capsize=2,
        label="agreement with the judge on held-out labels, 95 % Wilson interval",
    )
    if record.config:
        gate = 100 * record.config.reward_model.gate_accuracy
        axes.axhline(gate, color=GREY, linestyle=":", label=f"gate: {gate:.0f} % (balanced accuracy)")
    axes.set_title("The reward model, by version", loc="left")
    axes.set_ylabel("%")
    axes.set_xlabel("version")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(min(45.0, 100 * float(np.nanmin(low)) - 2), 101)
    axes.legend(loc="lower right", frameon=False)
    return svg_text(figure)


def watch_chart(record: RunRecord) -> str | None:
    """What the reward model promised and the judge gave on episodes asked about at random, and the evidence of a gap.
    Truth is drawn for the reader alone: the watch does not see it."""
    if not record.has("watch/belief"):
        return None
    from rlaif_ray.watch import ALARM, WINDOW

    figure, (means, evidence) = blank_figure(2)
    telling = _telling(record)
    truth = f"{telling.unharmed} (truth, audit only)"
    _line(means, record, f"truth/{telling.outcome}", truth, BLUE, scale=100, mean=True)
    _line(means, record, "watch/belief", "promised by the reward model", GREEN, scale=100, dashed=True)
    _line(means, record, "watch/verdict", "approved by the judge", RED, scale=100, dashed=True)
    _percent_axis(means, f"The last {WINDOW} episodes asked about at random")
    _line(evidence, record, "watch/evidence", "evidence that promises are broken", PURPLE)
    evidence.axhline(ALARM, color=RED, linestyle=":", label=f"alarm: {ALARM:,.0f}")
    evidence.set_yscale("symlog", linthresh=1.0)
    evidence.set_ylim(0, 10 * ALARM)
    evidence.set_title("Evidence (Shiryaev-Roberts)", loc="left")
    for alarm in record.alarms():
        for axes in (means, evidence):
            axes.axvline(number(alarm, "step") / 1e6, color=RED, linewidth=1)
    return _finish(figure, record, (means, evidence))


def time_chart(record: RunRecord) -> str | None:
    """Stacked seconds of an iteration, by what it did."""
    if not any(record.has(key) for key, _, _ in TIMES):
        return None
    figure, (axes,) = blank_figure(1)
    parts = [np.nan_to_num(smooth(record.column(key))) for key, _, _ in TIMES]
    names = [name for _, name, _ in TIMES]
    axes.stackplot(_steps(record), *parts, labels=names, colors=[c for _, _, c in TIMES], linewidth=0, alpha=0.85)
    _line(axes, record, "time/iteration_s", "whole iteration (parts may overlap)", "#333333", mean=True)
    axes.set_title("Where an iteration's time went, seconds", loc="left")
    axes.set_ylim(bottom=0)
    return _finish(figure, record, (axes,))


# --------------------------------------------------------------------------------------------- numbers


def reward_model_versions(record: RunRecord) -> list[tuple[int, float, float]]:
    """(version, held-out accuracy, held-out labels) of each version, when it was first seen."""
    seen: dict[int, tuple[int, float, float]] = {}
    columns = (record.column("rm/version"), record.column("rm/heldout_accuracy"), record.column("rm/heldout_n"))
    for version, accuracy, n in zip(*columns, strict=True):
        if version > 0 and math.isfinite(accuracy):
            seen.setdefault(int(version), (int(version), float(accuracy), float(n)))
    return [seen[v] for v in sorted(seen)]


def _steps(record: RunRecord) -> Array:
    return record.column("steps") / 1e6


# --------------------------------------------------------------------------------------------- drawing


def blank_figure(columns: int) -> tuple[Figure, tuple[Axes, ...]]:
    """A figure of so many charts side by side, in the report's style."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.4, 3.5), layout="constrained")
    axes = tuple(figure.subplots(1, columns, squeeze=False)[0])
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(axis="y", color="#E6E8EB", linewidth=0.8)
        one.set_axisbelow(True)
    return figure, axes


def _line(axes: Axes, record: RunRecord, key: str, name: str, colour: str, **how: Any) -> None:
    """One column over steps, if it was ever known; ``how``: ``scale``, ``dashed``, ``mean`` (show the moving mean), and
    by which column that is weighted, if there is one (``weight``)."""
    if not record.has(key):
        return
    values = how.get("scale", 1.0) * record.column(key)
    if how.get("mean"):
        weight = how.get("weight", "")
        values = smooth(values, weight=record.column(weight) if record.has(weight) else None)
    known = np.isfinite(values)
    style = (0, (5, 2)) if how.get("dashed") else "-"
    axes.plot(_steps(record)[known], values[known], color=colour, linestyle=style, linewidth=1.6, label=name)


def _cap(axes: Axes, cap: float | None) -> None:
    if cap is not None:
        axes.axhline(cap, color=GREY, linestyle=":", label=f"cap: {cap:,g}")


def _percent_axis(axes: Axes, title: str) -> None:
    axes.set_ylim(0, 101)
    axes.set_ylabel("%")
    axes.set_title(title, loc="left")


def _finish(figure: Figure, record: RunRecord, many: tuple[Axes, ...]) -> str:
    """Mark where feedback begins, name the axis, add the legends."""
    boundary = record.feedback_from
    steps = _steps(record)
    for axes in many:
        axes.set_xlim(0, max(float(np.nanmax(steps)), 1e-9))
        axes.set_xlabel("million environment steps")
        if boundary is not None:
            axes.axvline(boundary / 1e6, color="#333333", linestyle=(0, (1, 2)), linewidth=1, label="feedback begins")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, frameon=False, fontsize=8.5)
    return svg_text(figure)


def svg_text(figure: Figure) -> str:
    """The figure as SVG, the same bytes for the same figure."""
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "rlaif_ray", "font.family": "DejaVu Sans"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
