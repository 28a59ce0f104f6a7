"""``docs/STUDY.md``, whole, from the stored results: tables, charts, what failed and why, what was not run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from homegrid_study.arms import AUDIT, ORDER, Layout
from homegrid_study.described import alike, arms
from homegrid_study.figures import FIGURES, MARK, write_figures
from homegrid_study.processes import shared_by
from homegrid_study.stored import HEADLINE, REFERENCE, Results, Row
from homegrid_study.tables import (
    all_starts,
    comparison,
    effective,
    half_spared,
    markdown,
    naive_and_trained,
    outcomes,
    points,
    targets,
    worlds,
)
from homegrid_study.texts import (
    ABOUT_ALIKE,
    ABOUT_ALL_STARTS,
    ABOUT_ARMS,
    ABOUT_AUDIT,
    ABOUT_OUTCOMES,
    ABOUT_PAIRED,
    ABOUT_SHARES,
    ABOUT_WORLDS,
    HEAD,
)
from rlaif_ray.report.figures import count, decimal
from rlaif_ray.report.sweep_stats import paired_gain

__all__ = ["page", "write_page"]

# What a person has made of the figures, and found about failures, kept beside them: figures alone don't say why.
FINDINGS, NOTES = "study/findings.md", "study/notes.md"
PAIRS = (
    (("published", "published_1"), ("online", "online")),
    (("published", "published_2"), ("online", "online")),
    (("published", "published_2"), ("published", "open_500_2")),
    (("published", "published_500_2"), ("published", "open_500_2")),
    (("published", "open_500_2"), ("published", "passes_500_2")),
    (("published", "published_2"), ("published", "passes_500_2")),
    (("published", "passes_500_2"), ("published", "event_max_500_2")),
    (("published", "event_max_500_2"), ("online", "online")),
    (("published_full", "full_published_2"), ("online", "online")),
    (("published_full", "full_published_2"), ("budgets", "labels_250")),
    (("published_full", "full_published_2"), ("nets", "event_max_mlp")),
    (("published_full", "full_published_2"), ("nets", "event_max_egocentric")),
    (("online", "online"), ("nets", "cnn_lstm")),
    (("task", "task"), ("direct", "direct")),
    (("direct", "direct"), ("hybrid", "distilled")),
    (("direct", "direct"), ("hybrid", "distilled_terminal")),
    (("direct", "direct"), ("hybrid", "hybrid_10")),
    (("hybrid", "distilled"), ("hybrid", "hybrid_10")),
    (("online", "online"), ("online", "online_structured")),
    (("published", "published_2"), ("published", "published_2_structured")),
    (("direct", "direct"), ("direct", "direct_structured")),
    (("hybrid", "distilled"), ("hybrid", "distilled_structured")),
    (("hybrid", "hybrid_5"), ("hybrid", "hybrid_5_structured")),
    (("hybrid", "hybrid_10"), ("hybrid", "hybrid_10_structured")),
    (("online", "online"), ("confirm", "fold_1")),
)
TASK_ONLY = ("task", "full_task")
OTHER_WORLDS = ("worlds", "order")  # no other setting: `online` has no place in their tables
SMOKE = "# SMOKE: this page shows that the chain works; its figures mean nothing\n"


def write_page(layout: Layout) -> Path:
    """STUDY.md with all its figures; returns its path."""
    results = Results.read(layout)
    figures = {path.stem for path in write_figures(layout, results=results)}
    path = layout.docs / "STUDY.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    findings, notes = (file.read_text() if (file := layout.docs / name).is_file() else "" for name in (FINDINGS, NOTES))
    path.write_text(page(results, figures, findings, notes))
    return path


def page(results: Results, figures: set[str], findings: str, notes: str) -> str:
    """The text; ``figures``: names of those that there are; ``findings``: what they say; ``notes``: on what failed."""
    parts = [
        SMOKE if results.layout.smoke else "",
        _head(results),
        "## What was to be reached\n", targets(results),
        "## What was found\n" if findings else "", findings,
        "## Outcomes on unseen starts\n", ABOUT_OUTCOMES, outcomes(results.headline, published=True),
        _figure("cost-quality", figures), _gains(results), _figure("learning-curves", figures),
        "## Survival and success, naive and trained\n", naive_and_trained(results),
        "## Direct, distilled, hybrid\n", ABOUT_SHARES, effective(results), half_spared(results),
        _figure("shares", figures),
        *_one_thing_changed(results, figures),
        "## Reward models\n", _figure("reward-models", figures), _audit(results), _paired(results),
        "## Worlds that nothing was tuned on\n", ABOUT_WORLDS, worlds(results),
        "## What failed\n", _failed(results), notes,
        *_with_head("## Runs that are one run\n", ABOUT_ALIKE, alike(results)),
        "## What was not run\n", _not_run(results),
        "## Hours\n", _hours(results),
        "## Arms\n", ABOUT_ARMS, arms(results),
    ]  # fmt: skip
    return "\n".join(part for part in parts if part)


def _head(results: Results) -> str:
    machines = {f"{one['machine']['cores']} cores ({one['machine']['processor']})" for one in results.found.values()}
    where = f"Measured on {'; '.join(sorted(machines))}."
    return HEAD.format(where=where if machines else "Nothing was run yet.")


def _figure(name: str, there: set[str]) -> str:
    if name not in there:
        return ""
    said = (FIGURES[name].__doc__ or "").splitlines()[0]
    return f"![{said}](study/{name}.svg)\n\n{said} `scripts/reproduce/homegrid figure {name}`\n"


def _with_head(*parts: str) -> list[str]:
    """All, unless the last is empty."""
    return list(parts) if parts[-1] else []


def _gains(results: Results) -> str:
    return "\n\n".join(said for pair in PAIRS if (said := comparison(results, *pair))) + "\n"


def _one_thing_changed(results: Results, figures: set[str]) -> list[str]:
    """A table a question: files that ask the same share one."""
    asked: dict[str, list[Row]] = {}
    for study in ORDER:
        ended = [row for row in results.trained(study) if row.ended]
        rows = [row for row in ended if (row.study, row.arm) not in HEADLINE]
        if not rows:
            continue
        # Another world is no other setting.
        reference = [results.rows[REFERENCE]] if study not in OTHER_WORLDS else []
        reference += [row for row in ended if row not in rows]
        about = next(step.about for step in results.steps if step.study == study and step.kind == "train")
        asked.setdefault(about, reference).extend(rows)
    parts: list[str] = []
    for about, rows in asked.items():
        parts += [f"## {about}\n", outcomes(rows)]
        parts += [_figure("label-budgets", figures)] if rows[-1].study == "budgets" else []
        parts += [ABOUT_ALL_STARTS, all_starts(results)] if rows[-1].study == "published_full" else []
    return parts


def _audit(results: Results) -> str:
    row = results.rows.get((AUDIT, "nets"))
    lines = []
    for one in row.ended if row else []:
        for net, graded in one["nets"].items():
            sides = [_side(graded.get(side)) for side in ("harm", "harmless")]
            balanced = decimal(100 * graded["balanced"], 2)
            gate = "open" if graded["gate_open"] else "shut"
            lines.append([str(one["seed"]), net, str(one["labels"]), *sides, balanced, gate])
    if not lines:
        return ""
    header = (
        "seed",
        "net",
        "labels",
        "right where harm was done %",
        "right where none was %",
        "balanced %",
        "its gate in a run",
    )
    return ABOUT_AUDIT + markdown(header, lines)


def _side(graded: Mapping[str, Any] | None) -> str:
    if not graded:
        return "-"
    low, high = decimal(100 * graded["low"], 2), decimal(100 * graded["high"], 2)
    return f"{decimal(100 * graded['right'], 2)} [{low}, {high}] of {count(graded['n'])}"


def _paired(results: Results) -> str:
    """Sums over seeds: the episodes of different runs differ."""
    lines = []
    for row in results.headline:
        pairs = [one["pairs"] for one in row.ended if one.get("pairs")]
        episodes = sum(pair["episodes"] for pair in pairs)
        if not episodes:
            continue
        judge, model, agree = (
            decimal(100 * sum(p[key] * p["episodes"] for p in pairs) / episodes, 2)
            for key in ("judge_right", "model_right", "agree")
        )
        only = [str(sum(pair[key] for pair in pairs)) for key in ("only_judge_right", "only_model_right")]
        rights = (100 * np.array([pair[key] for pair in pairs]) for key in ("judge_right", "model_right"))
        lines.append([row.arm, count(episodes), judge, model, agree, *only, points(paired_gain(*rights))])
    if not lines:
        return ""
    right = ("verdict right %", "score right %", "agree %", "only the verdict right", "only the score right",
             "score over verdict, points")  # fmt: skip
    return ABOUT_PAIRED + markdown(("arm", "judged episodes", *right), lines)


def _failed(results: Results) -> str:
    lines = []
    for key, one in results.found.items():
        if one["status"] == "failed":
            lines.append(f"- `{key}`: {one['reason']}")
        elif one["status"] == "no_feedback_learned":
            why = one["summary"]["reward_model"]["reason"] or "no gate opened"
            lines.append(f"- `{key}`: no feedback was learned from ({why})")
    lines += [line for row in results.trained() if (line := _below(row))]
    return "\n".join(lines) + "\n" if lines else ("Nothing so far.\n" if results.found else "Nothing was run yet.\n")


def _below(row: Row) -> str:
    """An arm with feedback whose seeds ended below the mark of every seed; '' where none did."""
    survives, found = 100 * row.outcome("cat_survived"), 100 * row.outcome("found")
    seeds = [
        f"{one['seed']} ({decimal(survives[i])} / {decimal(found[i])})"
        for i, one in enumerate(row.results)
        if one is not None and min(survives[i], found[i]) < MARK  # never of what failed, which has no outcome
    ]
    if row.arm in TASK_ONLY or not seeds:
        return ""
    return f"- `{row.study}/{row.arm}`: survives / found below {MARK:g} % with seeds {', '.join(seeds)}"


def _not_run(results: Results) -> str:
    planned = {row["key"]: row for row in results.plan.get("steps", ())}
    lines: list[str] = []
    for (study, arm), row in results.rows.items():
        steps = [step for step in results.steps if (step.study, step.arm) == (study, arm)]
        missing = [step for step, one in zip(steps, row.results, strict=True) if one is None]
        if not missing:
            continue
        unfit = [step for step in missing if step.key in planned and not planned[step.key]["fits"]]
        why = "does not fit into the hours" if len(unfit) == len(missing) else "not finished"
        minutes = planned.get(missing[0].key, {}).get("minutes")
        each = f", {minutes:.0f} minutes each" if minutes is not None else ""
        lines.append(f"- `{study}/{arm}`: seeds {', '.join(str(step.seed) for step in missing)} ({why}{each})")
    return "\n".join(lines) + "\n" if lines else "Everything that was planned was run.\n"


def _hours(results: Results) -> str:
    if not results.plan:
        return "No plan was made: `scripts/reproduce/homegrid plan --measure`.\n"
    lines, names = [], dict.fromkeys((row["key"].partition("/")[0], row["arm"]) for row in results.plan["steps"])
    for study, arm in names:
        rows = [row for row in results.plan["steps"] if row["key"].startswith(f"{study}/") and row["arm"] == arm]
        fits = sum(row["fits"] for row in rows)
        done = [results.found[row["key"]] for row in rows if row["key"] in results.found]
        alone = f"{sum(shared_by(one) == 1 for one in done)} of {len(done)}"
        lines.append([f"{study}/{arm}", f"{fits} of {len(rows)}", decimal(rows[0]["minutes"]), rows[0]["basis"], alone])
    total = sum(row["minutes"] for row in results.plan["steps"] if row["fits"]) / 60
    spent = sum(one["minutes"] / shared_by(one) for one in results.found.values()) / 60
    return (
        f"Planned: {total:.1f} of {results.plan['hours']:g} machine-hours; spent so far: {spent:.1f}, "
        "without what ran with settings that were frozen before.\n\n"
        + markdown(("arm", "seeds that fit", "minutes each", "from", "had the machine alone"), lines)
    )
