"""What recorded states say of harm is what the world counted, in every world."""

import numpy as np
import pytest

from rlaif_ray import envs
from rlaif_ray.cli.sample import RandomActor
from rlaif_ray.columns import ColumnSampler

WORLDS = [
    ("rlaif_ray/Homegrid-v0", {}, "cat_squashed"),
    ("rlaif_ray/Homegrid-v0", {"cats": 2, "layout": "mirrored"}, "cat_squashed"),
    ("rlaif_ray/Homegrid-v0", {"harm": "chase"}, "cat_chased"),
    ("rlaif_ray/Workshop-v0", {}, "paint_spoiled"),
]


@pytest.mark.parametrize(("world", "options", "fact"), WORLDS)
def test_states_tell_of_harm_what_the_world_counted(world, options, fact):
    env = envs.make_vec(world, 64, options)
    env.action_space.seed(0)
    sampler = ColumnSampler(env, 0)
    sampler.reset(3, 0)
    rollout = sampler.sample(400, RandomActor(env.action_space), 0)
    tells = envs.env_spec(world).approvable
    said = [not tells(episode.states, options) for episode in rollout.episodes]
    counted = np.asarray(rollout.truth.facts[fact], bool).tolist()
    assert said == counted
    assert 10 < sum(counted) < len(counted) - 10
    assert tells(np.zeros((3, 2), np.int16), options) is None  # another world's
