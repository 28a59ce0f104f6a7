"""The world for measuring speed: as large and as long as it says, and in step with its own facts."""

from __future__ import annotations

import pickle
import time

import gymnasium
import numpy as np
import pytest

from rlaif_ray import envs
from rlaif_ray.envs.gridfield import GridfieldVectorEnv
from rlaif_ray.errors import ConfigError, EnvError
from rlaif_ray.types import VectorWorld


@pytest.mark.parametrize(("height", "width", "max_steps"), [(12, 14, 10), (64, 64, 1000), (4, 4, 1)])
def test_it_is_as_large_and_as_long_as_it_says(height, width, max_steps):
    world = envs.make_vec(envs.GRIDFIELD, 6, {"height": height, "width": width, "max_steps": max_steps})
    assert isinstance(world, VectorWorld)
    obs, _ = world.reset(seed=0)
    assert (obs.shape, obs.dtype) == ((6, height, width, 4), np.uint8)
    assert world.observation_space.contains(obs)
    rng, ends = np.random.default_rng(0), [[] for _ in range(6)]
    for t in range(2 * max_steps):
        obs, _, terminated, truncated, infos = world.step(rng.integers(4, size=6))
        assert not terminated.any()
        assert ("final_obs" in infos) == bool(truncated.any())
        for i in np.flatnonzero(truncated):
            ends[i].append(t)
    assert all(len(times) == 2 and times[1] - times[0] == max_steps for times in ends)
    assert max_steps < 1000 or len({times[0] for times in ends}) > 3, "ends are spread"


def test_the_grid_shows_what_the_states_say():
    world = GridfieldVectorEnv(40, height=6, width=7, max_steps=9)
    obs, _ = world.reset(seed=3)
    rng = np.random.default_rng(1)
    rewards = 0.0
    for _ in range(60):
        states = world.states().astype(int)
        for channel, (x, y) in enumerate(((0, 1), (3, 4), (5, 6))):
            assert (obs[..., channel].sum(axis=(1, 2)) == 1).all()
            assert (obs[np.arange(40), states[:, y], states[:, x], channel] == 1).all()
        assert (obs[..., 3].sum(axis=(1, 2)) == 4 * 5 - 1).all()
        assert not obs[:, [0, -1], :, 3].any()
        kept = obs.copy()
        following, reward, _, truncated, infos = world.step(rng.integers(4, size=40))
        assert (obs == kept).all(), "earlier observations stay as they were"
        if truncated.any():
            final = world.final_states().astype(int)[truncated]
            shown = infos["final_obs"][truncated]
            assert (shown[np.arange(len(final)), final[:, 1], final[:, 0], 0] == 1).all()
            assert (infos["final_info"]["cat_squashed"][truncated] == final[:, 7]).all()
            assert not infos["final_obs"][~truncated].any()
        obs, rewards = following, rewards + reward.sum()
    assert rewards > 10, "fruit is found in so small a field"


def test_what_happens_follows_from_the_seed_and_survives_pickling():
    def run(world, steps):
        return np.concatenate([world.step(np.arange(5) % 4)[0].ravel() for _ in range(steps)])

    one, two = GridfieldVectorEnv(5, max_steps=7), GridfieldVectorEnv(5, max_steps=7)
    one.reset(seed=4)
    two.reset(seed=4)
    assert (run(one, 20) == run(two, 20)).all()
    assert (run(pickle.loads(pickle.dumps(one)), 20) == run(two, 20)).all()
    two.reset(seed=5)
    assert (run(one, 20) != run(two, 20)).any()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"height": 3}, "'height': got 3, allowed are 4 to 256"),
        ({"width": 300}, "'width': got 300"),
        ({"max_steps": 0}, "'max_steps': got 0, allowed are 1 to 100000"),
        ({"max_steps": "long"}, "'max_steps': got 'long'"),
        ({"heigth": 12}, "did you mean 'height'"),
    ],
)
def test_options_are_checked(options, why):
    with pytest.raises(ConfigError, match=why):
        envs.make_vec(envs.GRIDFIELD, 2, options)


def test_wrong_use_is_told():
    world = gymnasium.make_vec(envs.GRIDFIELD, num_envs=2)
    with pytest.raises(EnvError, match="call reset"):
        world.step(np.array([0, 0]))
    world.reset(seed=0)
    for actions in (np.array([0, 4]), np.array([0]), np.array([0.0, 1.0])):
        with pytest.raises(EnvError, match="action"):
            world.step(actions)
    with pytest.raises(EnvError, match=r"\['robot'\]"):
        world.reset(options={"robot": (1, 1)})
    spec = envs.env_spec(envs.GRIDFIELD)
    assert (spec.renderer, spec.reader) == (None, "")


def test_stepping_is_vectorised():
    """150,000 steps a second of processor time at Homegrid's size; an idle core does several times that."""
    world = GridfieldVectorEnv(256)
    world.reset(seed=0)
    plan = np.random.default_rng(0).integers(4, size=(100, 256))
    began = time.process_time()
    for actions in plan:
        world.step(actions)
    assert plan.size / (time.process_time() - began) > 150_000
