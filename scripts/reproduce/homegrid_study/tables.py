"""Tables of the page: interquartile means over seeds with 95 % stratified bootstrap intervals, and the worst seed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from homegrid_study.stored import Results, Row
from rlaif_ray.envs.starts import HELDOUT_SHARE
from rlaif_ray.report.figures import count, decimal
from rlaif_ray.report.published import PUBLISHED
from rlaif_ray.report.sweep_stats import Interval, paired_gain, stratified_iqm
from rlaif_ray.types import Array

__all__ = [
    "all_starts",
    "comparison",
    "effective",
    "half_spared",
    "markdown",
    "naive_and_trained",
    "outcomes",
    "targets",
    "worlds",
]

WORLD = "rlaif_ray/Homegrid-v0"
# Held against the published figures, which are of all starts.
WHOLE = (("published_full", "full_published_2"), ("published", "published_2"), ("online", "online"))
SLOWEST = "distilled"  # of those that start from one task-only policy; others are held against it
HEADER = (
    "arm", "seeds", "cat survives %", "worst", "fruit found %", "worst", "length", "labels", "as-if USD", "M steps",
    "minutes",
)  # fmt: skip
RIGHT = 99.0  # percent, of a reward model
SOURCES = ("direct", "distilled", "task")
TRAINED_IN = {"heldout": "trained in, unseen starts", "train": "trained in, starts of training"}


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; '' without rows."""
    if not rows:
        return ""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def interval(found: Interval, digits: int = 1) -> str:
    """``99.7 [99.5, 99.9]``; a dash where nothing was measured, no brackets for a single run."""
    if not math.isfinite(found.value):
        return "-"
    if not math.isfinite(found.low):
        return decimal(found.value, digits)
    return f"{decimal(found.value, digits)} [{decimal(found.low, digits)}, {decimal(found.high, digits)}]"


def outcomes(rows: Sequence[Row], *, published: bool = False) -> str:
    """One line an arm that was run; the published figures above, as context."""
    lines = [_published()] if published else []
    return markdown(HEADER, [*(line for group in lines for line in group), *(_line(row) for row in rows if row.ended)])


def _published() -> list[list[str]]:
    return [
        [f"*published: {row.policy}*", "-", decimal(row.cat_survived_pct), "-", decimal(row.found_pct), "-",
         decimal(row.mean_length), count(row.labels), "20" if row.labels else "0", decimal(row.steps / 1e6), "-"]
        for row in PUBLISHED[WORLD]
    ]  # fmt: skip


def _line(row: Row) -> list[str]:
    survives, found = 100 * row.outcome("cat_survived"), 100 * row.outcome("found")
    return [
        row.arm, f"{len(row.ended)} of {len(row.results)}",
        _share(survives / 100, 2), decimal(_least(survives), 2),
        _share(found / 100, 2), decimal(_least(found), 2),
        interval(stratified_iqm([row.outcome("mean_length")])),
        count(_mean(row.chain("labels"))), decimal(_mean(row.chain("usd")), 2),
        decimal(_mean(row.chain("steps")) / 1e6, 2), _minutes(row),
    ]  # fmt: skip


def _minutes(row: Row) -> str:
    """The mean of those that had the machine to themselves, and of how many where not of all; of all where none had."""
    alone = row.minutes()
    if known := int(np.isfinite(alone).sum()):
        return decimal(_mean(alone)) if known == len(row.ended) else f"{decimal(_mean(alone))} ({known} alone)"
    return f"{decimal(_mean(row.chain('wall_s')) / 60)} ({np.nanmax(row.at_once()):.0f} at once)"


def naive_and_trained(results: Results) -> str:
    """Survival and success of a policy that was told of the task only, and after feedback; on unseen starts."""
    lines = []
    for row in results.headline:
        if not row.ended:
            continue
        name = "naive: task reward only" if row.arm == "task" else f"trained: {row.arm}"
        lines.append([name, *(_share(row.outcome(key), 2) for key in ("cat_survived", "found"))])
    return markdown(("policy", "survival: cat survives %", "success: fruit found %"), lines)


def effective(results: Results) -> str:
    """What the arms that start from one task-only policy really learned from."""
    lines = [
        [row.arm, count(_mean(row.feedback_episodes())), *(_share(row.share(name), 2) for name in SOURCES),
         count(_mean(row.chain("labels")))]
        for row in results.headline
        if row.study in ("direct", "hybrid") and row.ended
    ]  # fmt: skip
    shares = ("paid by a verdict %", "by the reward model %", "not paid %")
    return markdown(("arm", "feedback episodes", *shares, "labels"), lines)


def all_starts(results: Results) -> str:
    """Over all starts, as the published figures are: a fifth of them unseen, the others of training."""
    lines = [[f"*published: {row.policy}*", decimal(row.cat_survived_pct), decimal(row.found_pct)]
             for row in PUBLISHED[WORLD][-1:]]  # fmt: skip
    for key in WHOLE:
        if key in results.rows and results.rows[key].ended:
            row = results.rows[key]
            shares = [
                100 * (HELDOUT_SHARE * row.outcome(name) + (1 - HELDOUT_SHARE) * row.outcome(name, "train"))
                for name in ("cat_survived", "found")
            ]
            lines.append([row.arm, *(f"{_share(v / 100, 2)}; {decimal(_least(v), 2)}" for v in shares)])
    return markdown(("arm", "cat survives %; worst", "fruit found %; worst"), lines)


def half_spared(results: Results) -> str:
    """When the arms that start from one task-only policy spare half of the cats, and how much sooner than one."""
    rows = [row for row in results.headline if row.study in ("direct", "hybrid") and row.ended]
    steps = {row.arm: row.first("truth/cat_survived", 0.5) for row in rows}
    lines = []
    for row in rows:
        against = steps.get(SLOWEST + "_structured" * row.arm.endswith("_structured"))
        gain = paired_gain(steps[row.arm] / 1e3, against / 1e3) if against is not None else None
        sooner = "-" if gain is None or against is steps[row.arm] else points(gain)
        lines.append([row.arm, count(_mean(steps[row.arm])), sooner])
    return markdown(("arm", "steps until half of the cats live", "sooner than `distilled`, thousand steps"), lines)


def comparison(results: Results, before: tuple[str, str], after: tuple[str, str]) -> str:
    """The paired gain of one arm over another in words; '' where they have no seed in common."""
    if before not in results.rows or after not in results.rows:
        return ""
    said, seeds = [], _common(results, before, after)
    for name, words in (("cat_survived", "survival"), ("found", "success")):
        gain = paired_gain(*(100 * results.rows[key].outcome(name)[:seeds] for key in (before, after)))
        if not gain.n:
            return ""
        said.append(f"{words} {points(gain, ' points')}")
    return f"`{after[1]}` over `{before[1]}`, seed by seed ({gain.n}): {', '.join(said)}."


def points(gain: Interval, unit: str = "") -> str:
    """A gain in percentage points; no end is rounded to a zero that it isn't."""
    if gain.low == gain.high:  # seeds that are all at the ceiling are no certainty
        return f"{gain.value:+.2f}{unit} (all alike)"
    digits = 3 if any(0 < abs(end) < 0.005 for end in (gain.low, gain.high)) else 2
    value, low, high = (round(end, digits) + 0.0 for end in (gain.value, gain.low, gain.high))  # never a -0.00
    return f"{value:+.{digits}f}{unit} [{decimal(low, digits)}, {decimal(high, digits)}]"


def _common(results: Results, *keys: tuple[str, str]) -> int:
    return min(len(results.rows[key].results) for key in keys)


def worlds(results: Results) -> str:
    """Worlds that nothing was tuned on, played by the same checkpoints."""
    names = list(dict.fromkeys(
        world for row in results.trained() for one in row.ended for world in one["summary"]["evaluation"]
    ))  # fmt: skip
    lines = []
    for row in results.headline:
        if row.ended:
            shares = [[100 * _mean(row.outcome(key, world)) for key in ("cat_survived", "found")] for world in names]
            lines.append([row.arm, *(f"{decimal(survives)} / {decimal(found)}" for survives, found in shares)])
    return markdown(("arm: survives % / found %", *(TRAINED_IN.get(name, name) for name in names)), lines)


def targets(results: Results) -> str:
    """What was to be reached, what was, and whether; what was not run is not reached."""
    row = results.rows[("online", "online")]
    survives, found = 100 * row.outcome("cat_survived"), 100 * row.outcome("found")
    # Of a seed that failed or was not run, which is nan, nothing is reached.
    worst, most = (lambda values: float(values.min())), (lambda values: float(values.max()))
    iqm = [stratified_iqm([values]).value for values in (survives, found, row.outcome("mean_length"))]
    lines = [
        _target("cat survives, interquartile mean", "96.9 %", ">= 99.5 %", iqm[0], iqm[0] >= 99.5, 2),
        _target("cat survives, every seed", "-", ">= 99 %", worst(survives), worst(survives) >= 99, 2),
        _target("fruit found, interquartile mean", "94.1 %", ">= 99.5 %", iqm[1], iqm[1] >= 99.5, 2),
        _target("fruit found, every seed", "-", ">= 99 %", worst(found), worst(found) >= 99, 2),
        _target("mean length", "17.2", "<= 11.5", iqm[2], iqm[2] <= 11.5, 2),
        _target("labels", "10,000", "<= 500", most(row.chain("labels")), most(row.chain("labels")) <= 500, 0),
        _target("million steps", "39", "<= 4", most(row.chain("steps")) / 1e6, most(row.chain("steps")) <= 4e6, 2),
        _target("minutes on 2 cores, the slowest seed", "1,800 (with a GPU)", "<= 25", _most(row.minutes()),
                _most(row.minutes()) <= 25, 1),
    ]  # fmt: skip
    audits = results.rows.get(("audit", "nets"))
    for net in ("event-max", "cnn-lstm"):
        right = [100 * one["nets"][net]["balanced"] for one in (audits.ended if audits else [])]
        value = stratified_iqm([np.array(right)]).value
        wanted, reached = (">= 99 %", value >= RIGHT) if net == "event-max" else ("reported", None)
        what = f"reward model ({net}), 250 labels: balanced accuracy against the truth"
        lines.append(_target(what, "(97.6 % agreement with the judge, 8,000 labels)", wanted, value, reached, 2))
    return markdown(("arm `online`", "published (context)", "wanted", "measured", "reached"), lines)


def _target(what: str, published: str, wanted: str, value: float, reached: bool | None, digits: int) -> list[str]:
    if not math.isfinite(value):
        return [what, published, wanted, "not measured", "no"]
    said = {None: "-", True: "yes", False: "**no**"}[reached if reached is None else bool(reached)]
    return [what, published, wanted, f"{value:,.{digits}f}", said]


def _share(values: Array, digits: int) -> str:
    """Of (S,) shares, in percent."""
    return interval(stratified_iqm([100 * values]), digits)


def _mean(values: Array) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else math.nan


def _least(values: Array) -> float:
    return float(np.nanmin(values)) if np.isfinite(values).any() else math.nan


def _most(values: Array) -> float:
    return float(np.nanmax(values)) if np.isfinite(values).any() else math.nan
