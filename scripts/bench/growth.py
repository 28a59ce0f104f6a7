"""How speed changes with size: environments, runners, grids, episodes, and labels a second."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import given_rm
import labels_rate
import runners_beyond
from duel import duel, summary
from plan import Plan, Row
from this_machine import CORES

__all__ = ["suite"]

FIELD = "rlaif_ray/Gridfield-v0"
ENVIRONMENTS = (32, 128, 512, 2_048, 4_096)
GRIDS = ((12, 14), (16, 16), (24, 24), (32, 32), (48, 48), (64, 64))
EPISODES = (10, 100, 1_000)
RATES = (1, 10, 100, 1_000)


def suite(plan: Plan) -> Iterator[Row]:
    """One size at a time; the others stay as in the other suites (256 environments, 12 x 14 cells, `mlp`)."""
    tables: dict[str, Row] = {}
    out: Row = {"contenders": {}, "ratios": {}}
    for part, contestants in parts(plan).items():
        for found in duel(contestants, plan, part=part, rounds=plan.times(8), warm_up=2):
            tables[part] = sizes_table(part, found)
            if part == "runners":
                tables["beyond"] = runners_beyond.table(plan, found)
            yield out | {"tables": list(tables.values())}
    for rates in labels_rate.measured(plan, RATES[: plan.size(len(RATES), 1)]):
        tables["labels"] = rates
        yield out | {"tables": list(tables.values())}


def parts(plan: Plan) -> dict[str, dict[str, dict[str, Any]]]:
    """What is compared in each part, by name."""
    ours: dict[str, Any] = {"kind": "ours", "network": "mlp", "threads": 1}
    given = str(given_rm.fitted(plan.logs / "given-rm.pickle", plan.size(given_rm.LABELS, 120)))
    short = plan.size(100, 1)  # of each part, how many are tried
    counts = [n for n in (1, 2, 4, 8) if n <= max(2, CORES)][:short]
    return {
        "environments": {f"{n:,}": ours | {"env": {"num_envs": n}} for n in ENVIRONMENTS[:short]},
        "runners": {
            f"{n}, {way}": ours | {"runners": n, "resources": {"overlap": way == "ahead"}}
            for n in counts for way in ("in turn", "ahead")
        },
        "grids": {f"{h} x {w}": ours | field(height=h, width=w) for h, w in GRIDS[:short]},
        "episodes": {
            f"{n:,} steps{', scored' if scored else ''}": ours | field(max_steps=n) | scored
            for n in EPISODES[:short] for scored in ({}, {"given": given, "mix": {"ramp_steps": 1}})
        },
    }  # fmt: skip


def field(**options: int) -> dict[str, Any]:
    return {"env": {"id": FIELD, "options": options}}


TITLES = {
    "environments": ("Environments side by side", "The driver samples and learns on one thread."),
    "runners": (
        "Runners",
        "The batch of 8,192 steps and the 256 environments are shared out over them; the learner has one thread.",
    ),
    "grids": ("Size of the grid", "Gridfield, an open field; a 64 x 64 grid has 24 times the cells of 12 x 14."),
    "episodes": (
        "Length of an episode",
        "Gridfield of 12 x 14 cells, where every episode lasts so long. `scored`: by a given reward model, each "
        "observation once, in the batch that it came in.",
    ),
}


def sizes_table(part: str, found: dict[str, list[Row]]) -> Row:
    title, note = TITLES[part]
    rows: list[Sequence[Any]] = []
    for name, blocks in found.items():
        one = summary(blocks)
        rows.append([name, one["median"], f"{one['low']:,.0f} to {one['high']:,.0f}", one["blocks"]])
    return {"title": title, "head": ["", "steps/s", "lowest to highest", "turns"], "rows": rows, "note": note}
