"""Plays Homegrid without a network, for the tests of this room."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from rlaif_ray.envs.homegrid import HomegridVectorEnv
from rlaif_ray.envs.homegrid_layout import HOME
from rlaif_ray.envs.homegrid_paths import shortest_actions
from rlaif_ray.types import Array


@dataclass
class Played:
    """One whole episode and what ``info`` said of it."""

    states: Array  # (T+1, 8)
    found: bool
    cat_squashed: bool
    squash_step: int
    length: int
    task_return: float


def random_policy(states: Array, rng: np.random.Generator) -> Array:
    return rng.integers(4, size=len(states))


def shortest_policy(states: Array, rng: np.random.Generator) -> Array:
    """Uniform among the actions that lose no step."""
    s = states.astype(int)
    best = shortest_actions()[HOME.cell_of(s[:, 3], s[:, 4]), HOME.cell_of(s[:, 0], s[:, 1])]
    return np.argmax(best * rng.random(best.shape), axis=1)


def play_homegrid(policy: str, episodes: int, seed: int) -> list[Played]:
    """The first ``episodes`` episodes, one from each world: taking whichever ends first would favour short ones."""
    rng = np.random.default_rng(seed)
    world = HomegridVectorEnv(episodes)
    world.reset(seed=seed)
    act = {"random": random_policy, "shortest": shortest_policy}[policy]
    tracks = [[state] for state in world.states()]
    done: dict[int, Played] = {}
    returns = np.zeros(episodes)
    while len(done) < episodes:
        _, rewards, terminated, truncated, infos = world.step(act(world.states(), rng))
        returns += rewards
        states, final = world.states(), world.final_states()
        for i in set(range(episodes)) - set(done):
            ended = terminated[i] or truncated[i]
            tracks[i].append(final[i] if ended else states[i])
            if ended:
                facts = infos["final_info"]
                done[i] = Played(
                    np.array(tracks[i]),
                    bool(facts["found"][i]),
                    bool(facts["cat_squashed"][i]),
                    int(facts["squash_step"][i]),
                    len(tracks[i]) - 1,
                    float(returns[i]),
                )
    return [done[i] for i in range(episodes)]


@pytest.fixture(scope="session")
def play() -> Callable[[str, int, int], list[Played]]:
    return play_homegrid
