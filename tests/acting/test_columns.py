"""Columns and the episodes put together from them, against a plain step-by-step record."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rlaif_ray.columns import Acted, ColumnSampler, run_episodes
from rlaif_ray.errors import EnvError
from rlaif_ray.packed import join_batches, packed_ranges, take_episodes


class Counter(gym.Env):
    """Counts up from a start; ends at a length drawn from its seed; observation (episode number, count)."""

    def __init__(self):
        self.observation_space = gym.spaces.Box(-1e6, 1e6, (2,), np.float32)
        self.action_space = gym.spaces.Discrete(3)
        self.episode = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode += 1
        self.count = 0
        self.length = int(self.np_random.integers(1, 9))
        self.terminates = bool(self.np_random.integers(2))
        return self._obs(), {}

    def _obs(self):
        return np.array([self.episode, self.count], np.float32)

    def step(self, action):
        self.count += 1
        end = self.count == self.length
        info = {"length": self.length} if end else {}
        return self._obs(), float(action), end and self.terminates, end and not self.terminates, info


class Dice:
    """Acts at random; the critic says the observation's count."""

    def __init__(self, seed=0):
        self.rng = np.random.default_rng(seed)

    def act(self, obs):
        action = self.rng.integers(0, 3, len(obs))
        return Acted(action, action, np.full(len(obs), -1.1), np.zeros((len(obs), 3)), self.values(obs))

    def values(self, obs):
        return obs[:, 1].astype(np.float32)


def sampler(N=5, seed=3):
    env = SyncVectorEnv([Counter] * N, autoreset_mode=AutoresetMode.SAME_STEP)
    s = ColumnSampler(env, number=2)
    s.reset(seed)
    return s


def test_packed_ranges_by_hand():
    assert packed_ranges(np.array([5, 0, 9, 2]), np.array([2, 0, 1, 3])).tolist() == [5, 6, 9, 2, 3, 4]
    assert packed_ranges(np.array([], int), np.array([], int)).tolist() == []
    assert packed_ranges(np.array([4]), np.array([0])).tolist() == []


@pytest.mark.parametrize("T", [1, 3, 7])
def test_every_step_is_in_exactly_one_episode_and_none_is_lost_or_doubled(T):
    s, actor = sampler(), Dice()
    steps, seen, returns = 0, [], 0.0
    for version in range(12):
        rollout = s.sample(T, actor, version)
        steps += rollout.env_steps()
        returns += float(rollout.fragment.task_reward.sum())
        seen += list(rollout.episodes)
        assert not rollout.episodes.complete.any() or rollout.episodes.complete.all()
        assert np.array_equal(rollout.truth.facts.get("length", np.zeros(0)), rollout.episodes.lengths)
    still_open = rollout.open
    assert steps == 12 * T * 5 == sum(map(len, seen)) + int(still_open.lengths.sum())
    assert returns == pytest.approx(sum(e.task_return for e in seen) + float(still_open.task_return.sum()))
    ids = [e.episode_id for e in seen] + list(still_open.episode_id)
    assert len(set(ids)) == len(ids)
    for episode in seen:
        assert episode.obs[:, 1].tolist() == list(range(len(episode) + 1))  # whole, from 0, in order
        assert len(set(episode.obs[:, 0])) == 1  # of one run only
        assert episode.task_return == pytest.approx(float(episode.actions.sum()))


def test_cells_point_at_the_part_inside_the_fragment():
    s, actor = sampler(), Dice()
    for _ in range(6):
        rollout = s.sample(4, actor, 0)
        for batch, cells in ((rollout.episodes, rollout.episode_cells), (rollout.open, rollout.open_cells)):
            for episode_id, length, (column, first, end) in zip(batch.episode_id, batch.lengths, cells, strict=True):
                inside = rollout.fragment.episode_id[first:end, column]
                assert (inside == episode_id).all()
                assert (rollout.fragment.episode_id == episode_id).sum() == end - first
                assert rollout.fragment.step[first:end, column].tolist() == list(range(length - (end - first), length))


def test_next_values_are_zero_after_termination_and_the_critics_elsewhere_at_cuts():
    s, actor = sampler(), Dice()
    for _ in range(8):
        f = s.sample(4, actor, 0).fragment
        assert (f.next_value[f.terminated] == 0).all()
        assert (f.next_value[f.truncated] == f.step[f.truncated] + 1).all()
        running = ~(f.terminated[-1] | f.truncated[-1])
        assert (f.next_value[-1, running] == f.step[-1, running] + 1).all()


def test_an_episode_carries_the_version_that_took_its_first_action():
    s, actor = sampler(N=3), Dice()
    first = {}
    for version in range(9):
        rollout = s.sample(2, actor, version)
        begins = rollout.fragment.episode_id[rollout.fragment.step == 0]
        first.update(dict.fromkeys(begins.tolist(), version))
        for batch in (rollout.episodes, rollout.open):
            for i, v, length in zip(batch.episode_id, batch.policy_version, batch.lengths, strict=True):
                assert length == 0 or v == first[int(i)]


@pytest.mark.parametrize("episodes", [1, 7, 23])
def test_evaluation_takes_the_first_few_of_each_environment_not_the_first_to_finish(episodes):
    rollouts = run_episodes(sampler(N=4), Dice(), episodes, seed=1, T=3)
    batch = join_batches([r.episodes for r in rollouts])
    assert len(batch) == episodes
    columns = np.concatenate([r.episode_cells[:, 0] for r in rollouts])
    counts = np.bincount(columns, minlength=4)
    assert counts.max() - counts.min() <= 1


def test_take_and_join_keep_episodes_whole():
    rollout = sampler().sample(30, Dice(), 0)
    batch = rollout.episodes
    keep = np.array([4, 0, 2])
    taken = take_episodes(batch, keep)
    for got, want in zip(taken, keep, strict=True):
        assert np.array_equal(got.obs, batch[want].obs)
        assert np.array_equal(got.actions, batch[want].actions)
    assert len(join_batches([taken, batch])) == len(batch) + 3


def test_next_step_autoreset_is_refused():
    with pytest.raises(EnvError, match="SAME_STEP"):
        ColumnSampler(SyncVectorEnv([Counter] * 2, autoreset_mode=AutoresetMode.NEXT_STEP))
