"""Evaluations: exact counts, the same seed the same result, the same starts for two policies."""

import numpy as np
import pytest
import torch
from PIL import Image

from rlaif_ray import envs
from rlaif_ray.config import PolicyConfig
from rlaif_ray.evaluation import World, evaluate_policy, play, write_gifs
from rlaif_ray.networks import ActorCritic, Policy, spec_for

HOMEGRID = World("rlaif_ray/Homegrid-v0", {"starts": "train"})


def policy(seed, env_id="rlaif_ray/Homegrid-v0"):
    torch.manual_seed(seed)
    env = envs.make_vec(env_id, 1)
    network = ActorCritic(spec_for(PolicyConfig(hidden=(8,)), env.single_observation_space, env.single_action_space))
    env.close()
    torch.nn.init.normal_(network.actor.weight)
    return Policy(network)


@pytest.mark.parametrize("episodes", [1, 3, 207])
def test_exactly_so_many_episodes_and_all_complete(episodes):
    batch, truth = play(policy(0), HOMEGRID, episodes, deterministic=False, seed=1)
    assert len(batch) == episodes == len(truth.episode_id)
    assert batch.complete.all()
    assert len(set(batch.episode_id.tolist())) == episodes
    assert all(len(values) == episodes for values in truth.facts.values())
    assert truth.episode_id.tolist() == batch.episode_id.tolist()


def test_the_same_seed_gives_the_same_figures_and_another_others():
    one, again, other = (evaluate_policy(policy(0), HOMEGRID, 60, seed=seed) for seed in (5, 5, 6))
    assert one == again
    assert one["task_return"] != other["task_return"]
    assert list(one)[:3] == ["episodes", "found", "cat_survived"]
    assert one["episodes"] == 60
    assert one["options"] == {"starts": "train"}
    assert one["deterministic"] is False
    assert 0 <= one["found"] <= 1
    assert 1 <= one["mean_length"] <= 100


def test_deterministic_takes_the_likeliest_action():
    p = policy(0)
    batch, _ = play(p, HOMEGRID, 20, deterministic=True, seed=1)
    for episode in batch:
        assert episode.actions.tolist() == p.act(episode.obs[:-1], deterministic=True).tolist()


def test_a_world_without_facts_or_pictures_is_evaluated_all_the_same(tmp_path):
    world = World("Pendulum-v1", {})
    found = evaluate_policy(policy(0, "Pendulum-v1"), world, 3, seed=0)
    assert found["episodes"] == 3
    assert found["mean_length"] == 200
    assert found["task_return"] < 0
    assert write_gifs(policy(0, "Pendulum-v1"), world, 2, tmp_path, name="x") == []


def test_two_policies_are_shown_from_the_same_starts(tmp_path):
    paths = {name: write_gifs(policy(seed), HOMEGRID, 3, tmp_path / "media", name=name, seed=2)
             for name, seed in (("before", 0), ("after", 1))}  # fmt: skip
    assert [p.name for p in paths["before"]] == ["before-1.gif", "before-2.gif", "before-3.gif"]
    different_ends = 0
    for before, after in zip(*paths.values(), strict=True):
        with Image.open(before) as a, Image.open(after) as b:
            first = [np.asarray(image.convert("RGB")) for image in (a, b)]
            assert np.array_equal(*first)
            different_ends += before.read_bytes() != after.read_bytes()
    assert different_ends  # and what follows is each policy's own
