"""Homegrid episodes of a mixed policy, for the benches: each with its own share of random actions, no two alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from rlaif_ray.envs.homegrid import HomegridVectorEnv
from rlaif_ray.envs.homegrid_paths import shortest_actions
from rlaif_ray.types import Array, Episode

ENVS = 64
MOST_RANDOM = 0.8
"""Shares are uniform from 0 to here: an episode has 22 frames on average, from 4 to 101."""


def episodes(seed: int = 0, starts: str = "all") -> Iterator[Episode]:
    """Without end; ids count from 0. The worlds are stepped as far as the next episode needs."""
    rng, world = np.random.default_rng(seed), HomegridVectorEnv(ENVS, starts=starts)
    obs, _ = world.reset(seed=seed)
    share, told, number = rng.random(ENVS) * MOST_RANDOM, set[bytes](), 0
    paths: list[dict[str, list[Any]]] = [_begun(obs[i], state) for i, state in enumerate(world.states())]
    while True:
        actions = _actions(obs, share, rng)
        obs, _, terminated, truncated, infos = world.step(actions)
        ended, states, last = terminated | truncated, world.states(), world.final_states()
        for i, path in enumerate(paths):
            path["actions"].append(actions[i])
            path["obs"].append((infos["final_obs"] if ended[i] else obs)[i].copy())
            path["states"].append((last if ended[i] else states)[i].copy())
            if not ended[i]:
                continue
            columns = {name: np.stack(column) for name, column in path.items()}
            if (content := columns["states"].tobytes()) not in told:
                told.add(content)
                yield Episode(
                    episode_id=number, task_return=0.0, terminated=bool(terminated[i]), policy_version=0, **columns
                )
                number += 1
            paths[i], share[i] = _begun(obs[i], states[i]), rng.random() * MOST_RANDOM


def _begun(obs: Array, state: Array) -> dict[str, list[Any]]:
    return {"obs": [obs.copy()], "states": [state.copy()], "actions": []}


def _actions(obs: Array, share: Array, rng: np.random.Generator) -> Array:
    """A random action with the probability ``share``, else one of those on a shortest way."""
    flat = obs.reshape(len(obs), -1, obs.shape[-1])
    robot, fruit = flat[..., 0].argmax(axis=1), flat[..., 1].argmax(axis=1)
    good = shortest_actions()[fruit, robot] * rng.random((len(obs), 4))
    chosen: Array = np.where(rng.random(len(obs)) < share, rng.integers(0, 4, len(obs)), good.argmax(axis=1))
    return chosen
