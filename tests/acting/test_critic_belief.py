"""A critic that takes the reward model's belief: what it says with one, and that acting needs none."""

import json
from dataclasses import asdict, replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from test_mixing import fragment

from rlaif_ray.columns import Acted, ColumnSampler
from rlaif_ray.config import PolicyConfig
from rlaif_ray.errors import ShapeError
from rlaif_ray.mixing import Mixed, generalized_advantages, with_belief
from rlaif_ray.networks import ActorCritic, NetworkSpec, load_policy, save_policy, spec_for
from rlaif_ray.products import one_thread

SPEC = NetworkSpec("mlp", (8,), (5,), "discrete", 3, critic_belief=True)


@pytest.fixture(autouse=True)
def on_one_thread():
    """Nets this small take longer to share out than to compute."""
    with one_thread():
        yield


@pytest.fixture
def network():
    torch.manual_seed(0)
    made = ActorCritic(SPEC)
    torch.nn.init.normal_(made.critic.weight)  # one that has learned something of belief
    return made


def test_the_value_is_linear_in_belief_and_the_actor_does_not_see_it(network):
    obs = torch.rand(6, 5)
    plain, heads, embedding = network(obs)
    assert heads.shape == (6, 2)
    for belief in (0.0, 0.25, 0.5, 1.0):
        logits, value, _ = network(obs, torch.full((6,), belief))
        assert torch.equal(logits, plain)
        assert torch.allclose(value, heads[:, 0] + (2 * belief - 1) * heads[:, 1])
        assert torch.equal(value, network.value(embedding, torch.full((6,), belief)))
    assert torch.equal(network(obs, torch.full((6,), 0.5))[1], heads[:, 0])  # nothing known: as without a belief


def test_a_new_critic_does_not_mind_what_is_believed():
    made, obs = ActorCritic(SPEC), torch.rand(4, 5)
    assert torch.equal(made(obs, torch.zeros(4))[1], made(obs, torch.ones(4))[1])


def test_a_critic_learns_what_only_the_belief_tells(network):
    """The same observation, worth 1 where the episode so far was good and 0 where it wasn't."""
    obs, belief = torch.ones(64, 5), (torch.arange(64) % 2).float()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    for _ in range(80):
        loss = ((network(obs, belief)[1] - belief) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-3


def test_a_policy_with_such_a_critic_acts_without_a_belief_and_older_files_have_none(network, tmp_path):
    save_policy(tmp_path, network)
    policy = load_policy(tmp_path)
    assert policy.spec.critic_belief
    assert policy.act(np.zeros((7, 5), np.float32)).shape == (7,)
    older = {k: v for k, v in asdict(SPEC).items() if k != "critic_belief"}
    assert not NetworkSpec.from_json(json.dumps(older)).critic_belief


def test_spaces_and_config_make_the_spec():
    box = gym.spaces.Box(0, 1, (5,), np.float32)
    for actions in (gym.spaces.Discrete(3), gym.spaces.Box(-1, 1, (2,), np.float32)):
        assert spec_for(PolicyConfig(critic_belief=True), box, actions).critic_belief
        assert not spec_for(PolicyConfig(), box, actions).critic_belief


# ------------------------------------------------------------------------------------------------ columns


def test_belief_is_put_into_the_values_before_advantages():
    zeros = np.zeros((2, 1))
    plain = fragment(zeros, zeros, [[False], [False]], [[False], [True]])
    heads = replace(
        plain,
        value=np.array([[[1.0, 0.5]], [[2.0, -1.0]]], np.float32),
        next_value=np.array([[[0.0, 0.0]], [[4.0, 2.0]]], np.float32),
    )
    belief, following = np.array([[1.0], [0.75]], np.float32), np.array([[0.75], [0.25]], np.float32)
    mixed = Mixed(zeros, zeros, zeros == 0, {}, belief, following)
    settled = with_belief(heads, mixed)
    assert settled.value[:, 0] == pytest.approx([1.5, 2.0 - 0.5])
    assert settled.next_value[1, 0] == pytest.approx(4.0 - 1.0)
    advantage, target = generalized_advantages(settled, np.array([[1.0], [2.0]], np.float32), 0.5, 0.0)
    assert advantage[:, 0] == pytest.approx([1 + 0.5 * 1.5 - 1.5, 2 + 0.5 * 3.0 - 1.5])
    assert target == pytest.approx(advantage + settled.value)
    assert with_belief(plain, mixed) is plain
    with pytest.raises(ShapeError, match="takes a belief: got none"):
        with_belief(heads, Mixed(zeros, zeros, zeros == 0, {}))


class TwoNumbers:
    """Acts at random; its critic says (sum of the observation, 1)."""

    def act(self, obs):
        zeros = np.zeros(len(obs), np.float32)
        return Acted(zeros.astype(int), zeros.astype(int), zeros, np.zeros((len(obs), 2), np.float32), self.values(obs))

    def values(self, obs):
        return np.stack([obs.sum(-1), np.ones(len(obs))], -1).astype(np.float32)


def test_the_sampler_keeps_both_numbers_of_every_step_and_at_every_cut():
    env = gym.make_vec(
        "CartPole-v1", 2, vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP}, max_episode_steps=5,
    )  # fmt: skip
    sampler = ColumnSampler(env)
    sampler.reset(0)
    rollout = sampler.sample(12, TwoNumbers(), 0)
    f = rollout.fragment
    assert f.value.shape == f.next_value.shape == (12, 2, 2)
    assert f.value[..., 0] == pytest.approx(f.obs.sum(-1), abs=1e-5)
    assert f.truncated.any()
    finals = rollout.episodes.obs[rollout.episodes.obs_offsets[1:] - 1].sum(-1)
    cuts = [f.next_value[end - 1, column].tolist() for column, _, end in rollout.episode_cells.tolist()]
    assert cuts == [pytest.approx([total, 1.0], abs=1e-5) for total in finals]
    env.close()
