"""Sampling one update ahead, on and off: how much faster, and whether it learns as well."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import given_rm
import numpy as np
from duel import ratio, started, tell
from plan import Plan, Row, Turns
from scipy import stats

from rlaif_ray.config import load_config

__all__ = ["interval", "suite"]

POINTS = 20  # of a learning curve
NAMES = ("off", "on")
PRESET = "homegrid"


def suite(plan: Plan) -> Iterator[Row]:
    """The preset, paid by a reward model that was given, with three seeds; chunks of on and off in turn."""
    given = str(given_rm.fitted(plan.logs / "given-rm.pickle", plan.size(given_rm.LABELS, 120)))
    total = plan.size(load_config(PRESET).run.total_steps, 2_048)
    settings = {
        "steps": total // plan.size(POINTS, 2),
        "points": plan.size(POINTS, 2),
        "episodes": plan.size(1_000, 20),
    }
    for seed in range(len(plan.journal.rounds("curves")), plan.times(3)):
        running: list[Turns] = []
        try:
            running += [started(plan, name, contestant(name == "on", given, seed)) for name in NAMES]
            plan.journal.add("curves", curves(running, **settings))
        finally:
            for one in running:
                one.close()
        yield found(plan.journal.rounds("curves"), settings)
    yield found(plan.journal.rounds("curves"), settings)


def contestant(on: bool, given: str, seed: int) -> dict[str, Any]:
    return {
        "kind": "ours", "preset": PRESET, "given": given, "runners": 1, "run": {"seed": seed},
        "resources": {"overlap": on},
    }  # fmt: skip


def curves(running: Sequence[Turns], *, steps: int, points: int, episodes: int) -> dict[str, list[Row]]:
    """Each one's points, in turn: a chunk of steps, then an evaluation on held-out starts, which is not timed."""
    rows: dict[str, list[Row]] = {one.name: [] for one in running}
    for i in range(points):
        for one in running:
            # A chunk ends with a batch: what it did too much is taken off the next.
            done = sum(row["steps"] for row in rows[one.name])
            trained = one.ask("train", steps=max(1, (i + 1) * steps - done))
            outcome = one.ask("evaluate", episodes=episodes, starts="heldout")
            rows[one.name].append({key: trained[key] for key in ("steps", "seconds", "threads")} | {
                key: outcome[key] for key in ("found", "cat_survived", "mean_length")})  # fmt: skip
        tell(f"point {i + 1} of {points}: " + ", ".join(
            f"{n} {r[-1]['found']:.1%} / {r[-1]['cat_survived']:.1%}" for n, r in rows.items()))  # fmt: skip
    return rows


def found(seeds: Sequence[Mapping[str, Sequence[Row]]], settings: Mapping[str, Any]) -> Row:
    """Speed over all chunks; found and survived over steps, mean of the seeds with 95 % intervals."""
    flat = {name: [row for one in seeds for row in one[name]] for name in NAMES}
    rows = []
    for i in range(settings["points"]):
        steps = np.mean([sum(row["steps"] for row in one["off"][: i + 1]) for one in seeds])
        cells = [interval([one[name][i][key] for one in seeds]) for name in NAMES for key in ("found", "cat_survived")]
        rows.append([f"{steps:,.0f}", *(f"{m:.1%} ({low:.1%} to {high:.1%})" for m, low, high in cells)])
    return {
        "contenders": {}, "curves": list(seeds),
        "ratios": {"steps/s, overlap on / off": ratio(flat["on"], flat["off"])},
        "tables": [{
            "title": "Learning with and without",
            "head": ["steps", "off: found", "off: survived", "on: found", "on: survived"],
            "rows": rows,
            "note": f"Preset `{PRESET}` paid by a given reward model, {len(seeds)} seeds, "
            f"{settings['episodes']:,} episodes on held-out starts at each point, stochastic "
            "policy; mean and 95 % interval over seeds (Student's t). Of each chunk's batches, some "
            "twenty, one has been sampled during the evaluation before it where runners sample ahead.",
        }],
    }  # fmt: skip


def interval(values: Sequence[float], bounds: tuple[float, float] = (0.0, 1.0)) -> tuple[float, float, float]:
    """Mean and 95 % interval over few seeds, kept within the bounds (of shares); of a single one itself."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, mean, mean
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return mean, max(bounds[0], mean - half), min(bounds[1], mean + half)
