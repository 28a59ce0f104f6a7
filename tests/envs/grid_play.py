"""Plays any grid world without a network, for the tests of this room."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rlaif_ray.envs.gridenv import GridVectorEnv
from rlaif_ray.envs.homegrid import HomegridVectorEnv
from rlaif_ray.envs.homegrid_reader import HomegridReader
from rlaif_ray.envs.paths import shortest_at
from rlaif_ray.envs.render import HomegridRenderer
from rlaif_ray.envs.workshop import WorkshopRenderer, WorkshopVectorEnv
from rlaif_ray.envs.workshop_reader import WorkshopReader
from rlaif_ray.types import Array

VARIANTS: dict[str, dict[str, Any]] = {
    "mirrored": {"layout": "mirrored"},
    "furniture": {"layout": "furniture"},
    "two cats": {"cats": 2},
    "chase": {"harm": "chase"},
    "two cats elsewhere": {"cats": 2, "layout": "furniture"},
    "chase mirrored": {"harm": "chase", "layout": "mirrored"},
}
WORKSHOPS: dict[str, dict[str, Any]] = {"workshop": {}, "workshop rooms": {"layout": "rooms"}}
NAMES = (*WORKSHOPS, *VARIANTS)


def vector_env(name: str, num_envs: int, **options: Any) -> GridVectorEnv:
    if name in WORKSHOPS:
        return WorkshopVectorEnv(num_envs, **WORKSHOPS[name], **options)
    return HomegridVectorEnv(num_envs, **VARIANTS[name], **options)


def renderer(name: str) -> WorkshopRenderer | HomegridRenderer:
    return WorkshopRenderer(**WORKSHOPS[name]) if name in WORKSHOPS else HomegridRenderer(**VARIANTS[name])


def reader(name: str) -> WorkshopReader | HomegridReader:
    return WorkshopReader(**WORKSHOPS[name]) if name in WORKSHOPS else HomegridReader(**VARIANTS[name])


@dataclass
class Run:
    """One whole episode and what ``info`` said of it."""

    obs: Array  # (T+1, *obs)
    states: Array  # (T+1, K)
    found: bool
    harmed: bool
    harm_step: int

    @property
    def length(self) -> int:
        return len(self.states) - 1


def play(env: GridVectorEnv, episodes: int, seed: int, random_share: float = 0.0) -> list[Run]:
    """The first episode of each of ``episodes`` worlds: shortest paths, with a share of random actions."""
    rng, worlds = np.random.default_rng(seed), env._worlds
    obs, _ = env.reset(seed=seed)
    paths = [([o], [s]) for o, s in zip(obs, env.states(), strict=True)]
    runs: dict[int, Run] = {}
    was_harmed, when = env.world.facts
    while len(runs) < episodes:
        best = np.stack([
            shortest_at(env.world, int(goal), tuple(things.tolist()) if env.world.solid else ())[robot]
            for goal, things, robot in zip(worlds.goal, worlds.things, worlds.robot, strict=True)
        ])  # fmt: skip
        actions = np.argmax(best * rng.random(best.shape), axis=1)
        actions = np.where(rng.random(episodes) < random_share, rng.integers(4, size=episodes), actions)
        obs, _, terminated, truncated, infos = env.step(actions)
        states, final = env.states(), env.final_states()
        for i in set(range(episodes)) - set(runs):
            ended = terminated[i] or truncated[i]
            paths[i][0].append(infos["final_obs"][i] if ended else obs[i])
            paths[i][1].append(final[i] if ended else states[i])
            if ended:
                facts = infos["final_info"]
                said = bool(facts["found"][i]), bool(facts[was_harmed][i]), int(facts[when][i])
                runs[i] = Run(np.array(paths[i][0]), np.array(paths[i][1]), *said)
    return [runs[i] for i in range(episodes)]
