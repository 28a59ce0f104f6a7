"""Worlds by name."""

from __future__ import annotations

import dataclasses
import importlib
import pickle
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from rlaif_ray import envs
from rlaif_ray.errors import ConfigError, UnknownNameError
from rlaif_ray.types import Truth, VectorWorld

HOME = envs.HOMEGRID


def test_homegrid_has_all_parts():
    spec = envs.env_spec(HOME)
    world = envs.make_vec(HOME, 5, {"starts": "heldout"})
    assert isinstance(world, VectorWorld)
    world.reset(seed=0)
    pictures = spec.renderer({"starts": "heldout"}).png(world.states())
    module, _, attribute = spec.reader.partition(":")
    reader = getattr(importlib.import_module(module), attribute)()
    assert not reader.read(pictures[:1]).harmful
    facts = {
        "found": np.array([True, False]),
        "cat_squashed": np.array([True, False]),
        "squash_step": np.array([3, -1]),
    }
    outcomes = spec.outcomes(Truth(np.array([1, 2]), facts))
    assert {name: column.tolist() for name, column in outcomes.items()} == {"found": [1, 0], "cat_survived": [0, 1]}
    assert all(column.dtype.kind == "f" for column in outcomes.values())


def test_specs_are_picklable():
    """They travel to rollout actors and pool actors, which have registers of their own."""
    for id in (HOME, "CartPole-v1"):
        spec = pickle.loads(pickle.dumps(envs.env_spec(id)))
        world = spec.make_vec(2, {})
        world.reset(seed=0)
        world.step(np.array([0, 1]))


def test_unknown_names_offer_the_nearest():
    with pytest.raises(UnknownNameError, match=r"unknown environment .*did you mean 'rlaif_ray/Homegrid-v0'"):
        envs.env_spec("rlaif_ray/homegrid-v0")
    with pytest.raises(UnknownNameError, match="did you mean 'CartPole-v1'"):
        envs.env_spec("CartPol-v1")
    with pytest.raises(ConfigError, match="'nowhere_at_all' can't be imported"):
        envs.env_spec("nowhere_at_all:World-v0")


@pytest.mark.parametrize(
    ("id", "options", "why"),
    [
        (
            HOME,
            {"start": "train"},
            "unknown option .* 'start': allowed are cats, clear_cat, harm, heldout_fold, heldout_share, layout, "
            "starts; did you mean 'starts'",
        ),
        (HOME, {"starts": "held"}, "starts.*'held'.*heldout.*did you mean 'heldout'"),
        (HOME, {"starts": 3}, "starts.*got 3"),
        (HOME, {"clear_cat": 1}, "clear_cat.*got 1"),
        ("CartPole-v1", {"sutton_barto": True}, "did you mean 'sutton_barto_reward'"),
        ("FrozenLake-v1", {"map_name": "9x9", "desc": 5}, "can't be made with options"),
    ],
)
def test_bad_options_are_config_errors(id, options, why):
    with pytest.raises(ConfigError, match=why):
        envs.make_vec(id, 2, options)


def test_any_gymnasium_id_gets_a_plain_spec():
    spec = envs.env_spec("CartPole-v1")
    assert (spec.renderer, spec.reader) == (None, "")
    world = envs.make_vec("CartPole-v1", 3, {"max_episode_steps": 5})
    assert world.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    world.reset(seed=0)
    for _ in range(5):
        *_, truncated, infos = world.step(np.array([0, 1, 0]))
    assert truncated.all()
    assert infos["_final_obs"].all()
    truth = Truth(np.array([1]), {"score": np.array([2]), "name": np.array(["x"])})
    assert {k: v.tolist() for k, v in spec.outcomes(truth).items()} == {"score": [2.0]}


def test_a_registered_world_is_found_and_replaced():
    mine = dataclasses.replace(envs.env_spec("CartPole-v1"), id="test/Mine-v0")
    envs.register_env(mine)
    assert envs.env_spec("test/Mine-v0") is mine
    assert "test/Mine-v0" in envs.registered_envs()
    other = dataclasses.replace(mine, reader="package.module:Reader")
    envs.register_env(other)
    assert envs.env_spec("test/Mine-v0") is other
    with pytest.raises(ConfigError, match=r"expected 'package\.module:Class'"):
        dataclasses.replace(mine, reader="package.module.Reader")
    with pytest.raises(ConfigError, match="environment id"):
        dataclasses.replace(mine, id="")


def test_homegrid_is_registered_with_gymnasium_without_a_time_limit_of_its_own():
    assert gymnasium.spec(HOME).max_episode_steps is None
    importlib.reload(envs)  # a second import must not register twice (gymnasium would warn)


def test_importing_the_room_is_light():
    code = (
        "import sys, rlaif_ray.envs; print([m for m in ('torch', 'ray', 'PIL', 'pandas', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
