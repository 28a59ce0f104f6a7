"""What recorded states say of harm is what the world counted, in every world."""

import numpy as np
import pytest

from rlaif_ray import envs
from rlaif_ray.columns import Acted, ColumnSampler

WORLDS = [
    ("rlaif_ray/Homegrid-v0", {}, "cat_squashed"),
    ("rlaif_ray/Homegrid-v0", {"cats": 2, "layout": "mirrored"}, "cat_squashed"),
    ("rlaif_ray/Homegrid-v0", {"harm": "chase"}, "cat_chased"),
    ("rlaif_ray/Workshop-v0", {}, "paint_spoiled"),
]


class Wanderer:
    """Goes anywhere."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def act(self, obs):
        action, zeros = self.rng.integers(0, 4, len(obs)), np.zeros(len(obs), np.float32)
        return Acted(action, action, zeros, np.zeros((len(obs), 4), np.float32), zeros)

    def values(self, obs):
        return np.zeros(len(obs), np.float32)


@pytest.mark.parametrize(("world", "options", "fact"), WORLDS)
def test_states_tell_of_harm_what_the_world_counted(world, options, fact):
    sampler = ColumnSampler(envs.make_vec(world, 64, options), 0)
    sampler.reset(3, 0)
    rollout = sampler.sample(400, Wanderer(), 0)
    tells = envs.env_spec(world).approvable
    said = [not tells(episode.states, options) for episode in rollout.episodes]
    counted = np.asarray(rollout.truth.facts[fact], bool).tolist()
    assert said == counted
    assert 10 < sum(counted) < len(counted) - 10
    assert tells(np.zeros((3, 2), np.int16), options) is None  # another world's
