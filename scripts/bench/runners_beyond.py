"""What more runners than this machine has cores would make of an iteration: a simulation from recorded times.

Each simulated iteration draws, from times measured here, how long every runner samples its share, how long the driver
takes beside it, and how long the learner learns. It assumes a core for every runner and for each of the learner's
threads, and nothing else that they would share.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from common import BATCH, ENVS
from plan import Plan, Row

from rlaif_ray.columns import ColumnSampler
from rlaif_ray.config import PolicyConfig
from rlaif_ray.envs.homegrid import HomegridVectorEnv
from rlaif_ray.evaluation import PolicyActor
from rlaif_ray.networks import ActorCritic, Policy, spec_for

__all__ = ["iterations", "table"]

RUNNERS = (1, 2, 4, 8, 16, 32)
DRAWS = 2_000


def table(plan: Plan, found: Mapping[str, Sequence[Row]]) -> Row:
    """Simulated beside measured, where it was measured."""
    recorded = {n: _recorded(plan, n) for n in RUNNERS[: plan.size(len(RUNNERS), 2)]}
    alone = found["1, in turn"]
    rng = np.random.default_rng(0)
    rows = []
    for n, service in recorded.items():
        rates = []
        for way in ("in turn", "ahead"):
            seconds = iterations(service, n, parts_of(alone, recorded[1]), ahead=way == "ahead", rng=rng)
            measured = found.get(f"{n}, {way}")
            rates += [alone[0]["steps"] / alone[0]["blocks"] / float(np.median(seconds))]
            rates += [float(np.median([b["steps"] / b["seconds"] for b in measured])) if measured else None]
        rows.append([n, 1e3 * float(np.median(service)), *rates])
    return {
        "title": "Runners, beyond the cores: simulated",
        "head": ["runners", "sampling a share, ms", "in turn, simulated", "measured", "ahead, simulated", "measured"],
        "rows": rows,
        "note": "Steps/s. A simulation from times recorded here: how long one runner takes for its share of a batch, "
        "and what driver and learner take in an iteration with one runner. Every runner has a core to itself in it, "
        "which the measured ones do not where there are fewer cores.",
    }


def _recorded(plan: Plan, runners: int) -> list[float]:
    """Seconds that each of some fragments took one runner with its share of the environments; kept in the journal."""
    part = f"service, {runners}"
    if not plan.journal.rounds(part):
        envs, T = max(1, ENVS // runners), plan.size(BATCH // ENVS, 8)
        plan.journal.add(part, {"seconds": service_times(envs, T, plan.size(40, 3))})
    return list(plan.journal.rounds(part)[0]["seconds"])


def service_times(envs: int, T: int, fragments: int) -> list[float]:
    """Seconds of each fragment of T steps of so many environments, on one thread; the first is not told."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    world = HomegridVectorEnv(envs, starts="train")
    network = ActorCritic(
        spec_for(PolicyConfig(network="mlp"), world.single_observation_space, world.single_action_space)
    )
    sampler, actor = ColumnSampler(world), PolicyActor(Policy(network), False, 0)
    sampler.reset(0)
    times = []
    for _ in range(fragments + 1):
        began = time.perf_counter()
        sampler.sample(T, actor, 0)
        times.append(time.perf_counter() - began)
    torch.set_num_threads(before)
    return times[1:]


def parts_of(blocks: Sequence[Row], service: Sequence[float]) -> dict[str, Any]:
    """Of measured iterations with one runner: seconds of learning, of all else in the driver, and of handing over a
    fragment, which is what the driver waited beyond the sampling itself."""
    handover = max(0.0, float(np.median([b["sample_s"] for b in blocks]) - np.median(service)))
    return {
        "learn": [b["learn_s"] for b in blocks],
        "else": [b["seconds"] / b["blocks"] - b["learn_s"] - b["sample_s"] for b in blocks],
        "handover": handover,
    }


def iterations(
    service: Sequence[float], runners: int, parts: Mapping[str, Any], *, ahead: bool, rng: np.random.Generator
) -> np.ndarray[Any, Any]:
    """(DRAWS,) seconds of simulated iterations: the slowest runner's share and its handing over, then learning, or
    beside it where runners sample ahead; then all else."""
    slowest = rng.choice(service, (DRAWS, runners)).max(axis=1) + parts["handover"]
    learn, rest = rng.choice(parts["learn"], DRAWS), rng.choice(parts["else"], DRAWS)
    seconds: np.ndarray[Any, Any] = (np.maximum(slowest, learn) if ahead else slowest + learn) + rest
    return seconds
