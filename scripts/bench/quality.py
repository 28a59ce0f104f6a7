"""Wall time to a given quality: ours, the same in Stable-Baselines3, and Stable-Baselines3 as the published study ran
it, all paid by one reward model that was fitted beforehand."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import given_rm
from duel import spread, started, tell
from plan import Plan, Row, Turns
from this_machine import CORES

__all__ = ["race", "suite"]

GOAL = {"found": 0.95, "cat_survived": 0.95}
CUT_OFF = 10.0  # times ours
OURS, SAME, PUBLISHED = "ours, preset homegrid", "SB3, same network, settings and reward", "SB3 as published"
PUBLISHED_EVERY = 3  # repeats, the last among them: until it is cut off it takes ten times as long as ours
FIRST_S = 10.0
SHARE = 0.05  # a chunk is such a share of the time before it: how finely a time is told, whoever takes it
LONGEST_S = 3_600.0  # of ours: without it there is nothing to cut the others off by


def suite(plan: Plan) -> Iterator[Row]:
    """Each repeat has a seed of its own. A repeat counts when all in it have reached the goal or were cut off."""
    given = str(given_rm.fitted(plan.logs / "given-rm.pickle", plan.size(given_rm.LABELS, 120)))
    settings = {
        "goal": dict.fromkeys(GOAL, 0.0) if plan.tiny else GOAL,
        "episodes": plan.size(2_000, 20), "first_s": plan.size(int(FIRST_S), 0),
    }  # fmt: skip
    rounds = plan.times(3)
    for seed in range(len(plan.journal.rounds("race")), rounds):
        running: list[Turns] = []
        try:
            last = (rounds - 1 - seed) % PUBLISHED_EVERY == 0
            running += [started(plan, name, what) for name, what in contestants(given, seed, published=last).items()]
            plan.journal.add("race", race(running, **settings))
        finally:
            for one in running:
                one.close()
        yield found(plan.journal.rounds("race"), settings) | {"reward_model_given": given_rm.facts(given)}
    yield found(plan.journal.rounds("race"), settings) | {"reward_model_given": given_rm.facts(given)}


def contestants(given: str, seed: int, *, published: bool) -> dict[str, dict[str, Any]]:
    everybody = {
        OURS: {
            "kind": "ours", "preset": "homegrid", "given": given, "runners": 1, "run": {"seed": seed},
        },
        SAME: {"kind": "sb3-preset", "given": given, "threads": CORES, "seed": seed},
    }  # fmt: skip
    if published:
        everybody[PUBLISHED] = {"kind": "sb3-published", "given": given, "threads": CORES, "seed": seed}
    return everybody


def race(running: Sequence[Turns], *, goal: Mapping[str, float], episodes: int, first_s: float) -> dict[str, Row]:
    """Chunk by chunk, whoever has trained for the shortest time next, an evaluation after each; only training counts.

    Ours is the first of those running. One that has trained for ``CUT_OFF`` times as long as ours needed is out.
    """
    results: dict[str, Row] = {one.name: {"seconds": 0.0, "steps": 0, "reached": False, "curve": []} for one in running}
    ours, left = results[running[0].name], list(running)
    while left:
        one = min(left, key=lambda turn: results[turn.name]["seconds"])
        now = results[one.name]
        row = one.ask("train", seconds=max(first_s, SHARE * now["seconds"]))
        outcome = one.ask("evaluate", episodes=episodes, starts="heldout")
        now["seconds"] += row["seconds"]
        now["steps"] += row["steps"]
        now["curve"].append([now["steps"], now["seconds"], outcome["found"], outcome["cat_survived"]])
        now["reached"] = all(outcome[name] >= least for name, least in goal.items())
        tell(f"{one.name}: {now['seconds']:.0f} s, {now['steps']:,} steps: " + ", ".join(
            f"{name} {outcome[name]:.1%}" for name in goal))  # fmt: skip
        limit = CUT_OFF * ours["seconds"] if ours["reached"] else LONGEST_S
        left = [t for t in left if not results[t.name]["reached"] and results[t.name]["seconds"] < limit]
    return results


def found(races: Sequence[Mapping[str, Row]], settings: Mapping[str, Any]) -> Row:
    """Seconds and steps of each; ratios over ours, which are at least so much where one was cut off."""
    rows, ratios = [], {}
    for name in (OURS, SAME, PUBLISHED):
        runs = [one[name] for one in races if name in one]
        if not runs:
            continue
        reached = sum(run["reached"] for run in runs)
        last = runs[-1]["curve"][-1]
        seconds = spread([run["seconds"] for run in runs])
        rows.append([
            name, f"{reached} of {len(runs)}", seconds["median"], f"{seconds['low']:,.0f} to {seconds['high']:,.0f}",
            statistics.median(run["steps"] for run in runs), f"{last[2]:.1%} / {last[3]:.1%}",
        ])  # fmt: skip
        times = [one[name]["seconds"] / one[OURS]["seconds"] for one in races if name in one and one[OURS]["reached"]]
        if name != OURS and times:
            least = {"at_least": True} if reached < len(runs) else {}
            ratios[f"wall time, {name} / ours"] = {**spread(times), "pairs": len(times), **least}
    goal = " and ".join(f"{name} >= {least:.0%}" for name, least in settings["goal"].items())
    return {
        "contenders": {}, "ratios": ratios, "races": list(races),
        "tables": [{
            "title": f"Wall time to {goal}",
            "head": ["", "reached it", "seconds, median", "lowest to highest", "steps, median",
                     "found / survived, last"],
            "rows": rows,
            "note": f"On held-out starts, {settings['episodes']:,} episodes after each chunk, stochastic policy; "
            f"evaluation and start-up are not counted. Cut off at {CUT_OFF:.0f} times ours: a ratio is then a lower "
            "bound. All are paid by the same reward model, fitted beforehand and never again; the published reward "
            "form is paid from the first step, which spares its run the round on the task reward alone.",
        }],
    }  # fmt: skip
