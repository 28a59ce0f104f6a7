"""What is compared with what. A suite yields, after each round, all it has found so far: contenders' figures, the
ratios that come of them, and tables. Whoever stops it keeps what was yielded."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import before
import breakdown
import compiling
import given_policy
import given_rm
import growth
import memory_run
import neighbours
import overlap
import quality
import torch
from common import EPOCHS, NETWORKS, sized
from duel import Blocks, duel, ratio, ratio_against, started, summary, without_judge
from flops import operations, product_gflops
from plan import Plan, Row
from this_machine import CORES

from rlaif_ray.config import load_config

Suite = Callable[[Plan], Iterator[Row]]
ASKING_S = 2.5  # of a turn: shorter than the machine takes to change its pace, longer than an iteration
STARTS = 4  # the same program has been 2 % faster or slower for as long as it ran: each is started so often
ASKING_PAIRS = 9  # of each start
AHEAD = {"resources": {"overlap": True}}
JUDGE_S = "the judge's processor time taken off"


def learners(plan: Plan, networks: Sequence[str] = ("mlp", "cnn")) -> Iterator[Row]:
    """Same world, network, batch and coefficients; each contender with the threads and environments that suit it."""
    out: Row = {"contenders": {}, "ratios": {}, "limits": {}}
    for network in networks:
        rounds = plan.times({"mlp": 20, "cnn": 8}[network])
        for found in duel(candidates(network), plan, part=network, rounds=rounds, warm_up=2):
            out["contenders"] |= {f"{network}: {name}": summary(rows) for name, rows in found.items()}
            ours, sb3, stock = (best(found, kind) for kind in ("ours", "SB3", "RLlib"))
            out["ratios"] |= {
                f"{network}: ours / SB3": ratio(found[ours], found[sb3]) | {"of": [ours, sb3]},
                f"{network}: ours / stock RLlib": ratio(found[ours], found[stock]) | {"of": [ours, stock]},
            }
            yield out
        out["limits"][network] = arithmetic(network, summary(found[ours])["median"])
        yield out


def candidates(network: str) -> dict[str, dict[str, Any]]:
    ours = {"kind": "ours", "network": network}
    sb3 = {"kind": "sb3", "network": network, "threads": CORES}
    everybody: dict[str, dict[str, Any]] = {
        f"ours, {CORES} threads": ours | {"threads": CORES},
        "ours, 1 thread": ours | {"threads": 1},
        "ours, 1 thread and a runner ahead": ours | {"threads": 1, "runners": 1} | AHEAD,
        f"ours, {CORES} threads and a runner ahead": ours | {"threads": CORES, "runners": 1} | AHEAD,
        f"SB3, 64 envs, {CORES} threads": sb3 | {"envs": 64},
        f"SB3, 128 envs, {CORES} threads": sb3 | {"envs": 128},
        f"SB3, 256 envs, {CORES} threads": sb3 | {"envs": 256},
        "SB3, 256 envs, 1 thread": sb3 | {"envs": 256, "threads": 1},
        f"SB with our trunk inside, {CORES} threads": sb3 | {"ours": True},
        f"RLlib, {CORES} threads": {"kind": "rllib", "network": network, "threads": CORES},
        "RLlib, 1 thread and a runner": {"kind": "rllib", "network": network, "threads": 1, "runners": 1},
    }
    return everybody


def best(blocks: Blocks, kind: str) -> str:
    """Of one kind's variants the one that is fastest in this run."""
    names = [name for name in blocks if name.startswith(f"{kind},")]
    return max(names, key=lambda name: summary(blocks[name])["median"])


def arithmetic(network: str, steps_per_s: float) -> Row:
    """What the plain network's operations alone would allow at the rate of a large matrix product: as PyTorch makes
    it, and as our networks do."""
    each = operations(network, ours=False)
    rates = {"PyTorch's": product_gflops(CORES, by=torch.matmul), "ours": product_gflops(CORES)}
    allowed = {name: gflops * 1e9 / (each * EPOCHS) for name, gflops in rates.items()}
    return {
        "operations_per_sample": each,
        "products": [
            {"of": name, "gflops": rates[name], "steps_per_s": steps, "ours_over_it": steps_per_s / steps}
            for name, steps in allowed.items()
        ],
    }


def published(plan: Plan) -> Iterator[Row]:
    """Against SB3 as the published study ran it: 4 environments, its defaults, 2x2 convolutions."""
    ours = {"kind": "ours", "threads": 1, "runners": 1, "every": 1} | AHEAD
    contestants = {
        "ours, mlp": ours | {"network": "mlp"},
        "ours, planning (the preset's)": ours | sized(PRESET.policy.network),
        "SB3, published settings": {"kind": "sb3-published", "threads": CORES, "every": 4},
    }
    for found in duel(contestants, plan, part="published", rounds=plan.times(12), warm_up=2):
        theirs = found["SB3, published settings"]
        ratios = {f"{n} / SB3, published settings": ratio(b, theirs) for n, b in found.items() if n.startswith("ours")}
        yield {"contenders": {name: summary(rows) for name, rows in found.items()}, "ratios": ratios}


def feedback(plan: Plan) -> Iterator[Row]:
    """What feedback costs the loop: steps a second with it over those without. The judge runs on the same cores."""
    given = str(given_rm.fitted(plan.logs / "given-rm.pickle", plan.size(given_rm.LABELS, 120)))
    policy = given_policy.trained(plan, given)
    per_turn = _questions_a_turn(plan, policy)
    contestants = asking(given, policy, per_turn)
    measured: Blocks = {"off": []}
    for name, what in contestants.items():
        if name == "off":
            continue
        # One at a time: who waited for minutes while all the others had their turns would begin with cold memory.
        both = {"off": contestants["off"], name: what}
        for start in range(plan.size(STARTS, 1)):
            part, rounds = f"{name}, start {start + 1}", plan.times(ASKING_PAIRS)
            earlier = measured
            for found in duel(both, plan, part=part, rounds=rounds, warm_up=plan.size(WARM_UP, 1)):
                measured = earlier | {
                    one: earlier.get(one, []) + [row | {"start": f"start {start + 1}"} for row in rows]
                    for one, rows in found.items()
                }
                out = costs(measured) | {"reward_model_given": given_rm.facts(given)}
                yield out
    if CORES > 1 and hasattr(os, "sched_setaffinity"):
        kinds = list(neighbours.KINDS)[: plan.size(len(neighbours.KINDS), 1)]
        beside = neighbours.measured(plan.times(40), plan.size(neighbours.PASSES, 1), kinds)
        yield out | {"tables": [*out["tables"], beside]}


def _questions_a_turn(plan: Plan, policy: str, labels_per_s: float = 20.0) -> int:
    """How many questions an iteration make at least so many labels a second, by iterations measured without any: those
    that ask take longer."""
    known = plan.journal.rounds("calibration")
    if not known:
        one = started(plan, "calibration", PRESETS_NETWORK | given_policy.acting_by(policy))
        try:
            rows = [one.ask() for _ in range(plan.size(24, 2))]
        finally:
            one.close()
        seconds = sorted(row["seconds"] for row in rows)[len(rows) // 2]
        plan.journal.add(
            "calibration",
            {"seconds": seconds, "questions": math.ceil(labels_per_s / BECOME_LABELS * ASKING_TAKES * seconds)},
        )
        known = plan.journal.rounds("calibration")
    return int(known[0]["questions"])


PRESET = load_config("homegrid")
ASKING_TAKES = 1.15  # times as long as an iteration without any asking, at 20 labels a second
BECOME_LABELS = 0.86  # of questions: the others are abstained from, or known already
WARM_UP = 60  # iterations: the first reward model has come into service by then, and been scored with in the runner
AS_PRESET = f"{PRESET.feedback.labels_per_iteration} questions an iteration"  # the preset's rate
PRESETS_NETWORK: dict[str, Any] = {
    "kind": "ours", **sized(PRESET.policy.network), "threads": 1, "runners": 1, **AHEAD,
}  # fmt: skip


def asking(given: str, policy: str, per_turn: int) -> dict[str, dict[str, Any]]:
    """``per_turn``: questions an iteration that make some 20 a second. All act by the same policy. Between turns all of
    a contender stands still, judge, pool and reward model too: they work in its own time, not in others'. Answers that
    are due meanwhile come when its next turn begins."""
    off = PRESETS_NETWORK | given_policy.acting_by(policy) | {"turn": {"seconds": ASKING_S}, "stops": True}
    ours = off | {"against": "off"}
    judge = {"judge": {"kind": "builtin", "profile": "gpt-4o-mini-2024"}}
    spread = {"labels_per_iteration": PRESET.feedback.labels_per_iteration, "late": "defer", "fraction": 1.0}
    many = {"labels_per_iteration": per_turn, "late": "defer", "fraction": 1.0, "concurrency": 256}
    retrained = {"retrain_every": PRESET.reward_model.retrain_every, "pace": "go"}
    return {
        "off": off,
        "distilled, every episode scored, no retraining": ours | {"given": given, "mix": {"ramp_steps": 1}},
        "distilled, retrained as labels come": ours | judge | {
            "mix": {"source": "distilled", "ramp_steps": 1}, "feedback": spread, "reward_model": retrained,
        },
        f"hybrid, {AS_PRESET}, deferred": ours | judge | {
            "mix": {"source": "hybrid"}, "feedback": spread, "reward_model": retrained,
        },
        "hybrid, 20 labels/s, deferred": ours | judge | {
            "mix": {"source": "hybrid"}, "feedback": many, "reward_model": {"retrain_every": 200, "pace": "go"},
        },
        f"direct, {AS_PRESET}, deferred": ours | judge | {
            "mix": {"source": "direct", "credit": "terminal", "unjudged": "task"}, "feedback": spread,
        },
    }  # fmt: skip


def costs(found: Mapping[str, Sequence[Row]]) -> Row:
    """Ratios over off's turns before and after each, with and without the judge's own processor time, and what was
    asked, judged and retrained."""
    out: Row = {"contenders": {}, "ratios": {}}
    rows = []
    for name, blocks in found.items():
        out["contenders"][name] = summary(blocks)
        if name == "off":
            continue
        out["ratios"][f"{name} / off"] = ratio_against(blocks)
        if any(row["judge_processor_s"] for row in blocks):
            out["ratios"][f"{name}, {JUDGE_S} / off"] = ratio_against(without_judge(blocks))
        seconds = sum(row["seconds"] for row in blocks)
        per_s = sum(row["labels"] for row in blocks) / seconds
        rows.append([name, per_s, *(100 * sum(r[k] for r in blocks) / seconds for k in (
            "judge_processor_s", "reward_model_processor_s"))])  # fmt: skip
    out["tables"] = [
        {
            "head": ["", "labels/s", "judge's process, % of a core", "fitting the reward model, % of a core"],
            "rows": rows,
            "note": "Retraining runs in an actor of its own, niced: its processor time is told here and lies in the "
                    "ratios of those that are retrained, not in those of the model that was given.",
        },
        {
            "title": "Processor time of an iteration, ms",
            "head": ["", *PROCESSES],
            "rows": [[name, *(processor_ms(blocks, kind) for kind in PROCESSES)] for name, blocks in found.items()],
            "note": "Medians over turns. All act by one policy in the middle of its training, which stays as it is "
                    "(learning rate 1e-12): their episodes are of the same kind. The driver learns. Between turns a "
                    "contender stands still with all its processes; answers due meanwhile come when it goes on.",
        },
        by_start({name: blocks for name, blocks in found.items() if name != "off"}),
    ]  # fmt: skip
    return out


def by_start(found: Mapping[str, Sequence[Row]]) -> Row:
    """How far the ratios differ from start to start of the same program."""
    starts = sorted({row.get("start", "") for blocks in found.values() for row in blocks})
    each = {name: {start: [row for row in blocks if row.get("start", "") == start] for start in starts}
            for name, blocks in found.items()}  # fmt: skip
    return {
        "title": "The ratios by start",
        "head": ["", *starts],
        "rows": [[name, *(ratio_against(one[start])["median"] if one[start] else None for start in starts)]
                 for name, one in each.items()],
        "note": "Median of the turns of a start over off's beside them. Both are started anew each time: the same "
                "program is a few hundredths faster or slower for as long as it runs.",
    }  # fmt: skip


PROCESSES = ("driver", "runners", "questioners", "store", "server", "reward model")


def processor_ms(blocks: Sequence[Row], kind: str) -> float:
    """Of one kind of process in an iteration, median over turns."""
    return 1e3 * statistics.median(row["by_process"].get(kind, 0.0) / row["blocks"] for row in blocks)


def gpu(plan: Plan) -> Iterator[Row]:
    """The policy learner and the reward model's fit on a GPU, where there is one."""
    if not torch.cuda.is_available():
        yield {"contenders": {}, "ratios": {}, "not_run": "PyTorch sees no GPU on this machine"}
        return
    ours = {"kind": "ours"}
    contestants = {
        f"{network}, {device}": ours | sized(network) | {"resources": {"device": device}}
        for network in NETWORKS for device in ("cpu", "cuda")
    }  # fmt: skip
    for found in duel(contestants, plan, part="learner", rounds=plan.times(10), warm_up=3):
        out: Row = {
            "contenders": {name: summary(rows) for name, rows in found.items()},
            "ratios": {f"{n}: GPU / CPU": ratio(found[f"{n}, cuda"], found[f"{n}, cpu"]) for n in NETWORKS},
        }
        yield out
    yield out | {"tables": [breakdown.fits(plan, ("cpu", "cuda"))]}


SUITES: dict[str, Suite] = {
    "learners": learners, "published": published, "quality": quality.suite, "breakdown": breakdown.suite,
    "feedback": feedback, "growth": growth.suite, "memory": memory_run.suite, "overlap": overlap.suite, "gpu": gpu,
    "compile": compiling.suite, "before": before.suite,
}  # fmt: skip


# Of a smoke run: what is compared, what share of its time each comparison has, and whose figures are held against ours.
SMOKED = (("mlp", 0.35, ("SB3", "stock RLlib")), ("cnn", 0.27, ("SB3",)))
SMOKED_ASKING = 0.38


def smoke(plan: Plan, seconds: float, stored: Mapping[str, Mapping[str, Any]]) -> dict[str, Row]:
    """The main ratios from a few blocks each, within so many seconds: each comparison has a share of them, in which its
    processes start too, and stops after the round in which that is over. Who takes part for each side is who did in the
    ratios ``stored``: those were the fastest of their kind."""
    out: dict[str, Row] = {}
    for network, share, others in SMOKED:
        everybody = candidates(network)
        pairs = {}
        for theirs in others:
            name = f"{network}: ours / {theirs}"
            pairs[name] = _pair(stored.get(name, {}), theirs, everybody)
        who = {one: everybody[one] for pair in pairs.values() for one in pair}
        found = _last(duel(who, _within(plan, share * seconds), part=network, rounds=plan.times(9), warm_up=1))
        out |= {name: ratio(found[ours], found[theirs]) for name, (ours, theirs) in pairs.items()}
    hybrid = f"hybrid, {AS_PRESET}, deferred"
    asked = {name: what for name, what in asking("", "", 1).items() if name in ("off", hybrid)}
    asked["off"] |= {"warm_up": 2}  # nobody learns: it meets the same episodes, and has no reward model to wait for
    found = _last(duel(asked, _within(plan, SMOKED_ASKING * seconds), part="hybrid", rounds=plan.times(9),
                       warm_up=plan.size(WARM_UP, 1)))  # fmt: skip
    return out | {f"{hybrid} / off": ratio_against(found[hybrid])}


def _pair(stored: Mapping[str, Any], theirs: str, everybody: Mapping[str, Any]) -> list[str]:
    """Of a ratio, who took part when it was stored, or who usually does."""
    pair = list(stored.get("of", ()))
    usual = {"SB3": f"SB3, 128 envs, {CORES} threads", "stock RLlib": f"RLlib, {CORES} threads"}[theirs]
    return pair if pair and set(pair) <= set(everybody) else ["ours, 1 thread and a runner ahead", usual]


def _last(rounds: Iterator[Blocks]) -> Blocks:
    return list(rounds)[-1]


def _within(plan: Plan, seconds: float) -> Plan:
    return replace(plan, until=time.monotonic() + seconds)
