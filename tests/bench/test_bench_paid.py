"""A reward model's pay in Stable-Baselines3: the same rewards for the same steps as in our own loop."""

from __future__ import annotations

import given_rm
import numpy as np
import paid
import pytest
from with_ours import common_settings

from rlaif_ray.cli.sample import RandomActor
from rlaif_ray.columns import ColumnSampler
from rlaif_ray.config import RewardModelConfig, deep_merge, validate
from rlaif_ray.envs.homegrid import HomegridVectorEnv
from rlaif_ray.loop import FeedbackLoop
from rlaif_ray.mixing import feedback_weight
from rlaif_ray.reward_model import RewardModel
from rlaif_ray.reward_model.trainer import Published
from rlaif_ray.types import RewardModelReport

N, T, FRAGMENTS = 6, 40, 8
MIX = {"source": "distilled", "start_step": 240, "ramp_steps": 600, "credit": "redistribute"}


@pytest.fixture(scope="module")
def published():
    state = RewardModel.create(RewardModelConfig(), (12, 14, 4), 3).state()
    return Published({**state, "version": 1}, RewardModelReport(1, True, 1.0, 10, 0.9, 1.0, 40, 0.1, 0.5))


class Watched(RandomActor):
    """Walks at random, and writes down what a library that steps the world itself would have seen."""

    def __init__(self, env):
        env.action_space.seed(0)
        super().__init__(env.action_space)
        self.paths = paid.Paths(N)
        self.step, env.step = env.step, self.watched

    def watched(self, actions):
        obs, reward, terminated, truncated, infos = self.step(actions)
        self.paths.step(np.array(obs), infos.get("final_obs"), terminated, terminated | truncated)
        return obs, reward, terminated, truncated, infos


def test_every_step_is_paid_what_our_loop_pays_it(published):
    config = validate(deep_merge(common_settings(), {"mix": MIX}))
    model = RewardModel.from_state(published.state)
    loop = FeedbackLoop(config, None, given_rm.Given(published), choose=None, load=RewardModel.from_state)
    loop.learn_to_judge()
    env = HomegridVectorEnv(N)
    sampler = ColumnSampler(env)
    sampler.reset(0)
    actor = Watched(env)
    actor.paths.begin(sampler._obs.copy())
    paid_something = False
    for i in range(1, FRAGMENTS + 1):
        rollout = sampler.sample(T, actor, 0)
        steps = i * N * T
        mixed = loop.mix(rollout, steps)
        loop.end_iteration(steps)
        weight = feedback_weight(steps, config.mix)
        theirs = paid.feedback(actor.paths.take(weight), model, config, weight, (T, N))
        assert np.allclose(theirs, mixed.feedback, atol=1e-6)
        paid_something |= bool(np.abs(theirs).max() > 1e-3)
    assert paid_something
    assert loop.totals["distilled"] > 0


def test_the_published_form_pays_at_the_end_where_the_model_approves(published, monkeypatch):
    class Says:
        def score(self, batch):
            return type("Scores", (), {"final": np.array([0.9, 0.9, 0.4])})

    monkeypatch.setattr(paid, "_model", lambda given: Says())
    path = np.zeros((21, 12, 14, 4), np.uint8)  # 20 steps
    ended = [paid.Part(0, 0, 20, path, None, terminated=True), paid.Part(2, 0, 20, path, None, terminated=False),
             paid.Part(3, 0, 20, path, None, terminated=True)]  # fmt: skip
    assert np.allclose(paid.Gated("").reward(ended, 5), [1 - 0.9 * 0.2, 0, 0.01, 0, 0])
    assert not paid.Gated("").reward([], 2).any()


def test_a_given_model_is_fitted_once_and_read_back(given):
    path, before = given, given.stat().st_mtime_ns
    given_rm.fitted(path, 120)
    assert path.stat().st_mtime_ns == before
    told = given_rm.facts(path)
    assert 100 <= told["labels"] <= 120
    assert told["heldout_accuracy"] > 0.85
    model = given_rm.Given(given_rm.read(path))
    (first,) = model.poll()
    assert first.state["version"] == first.report.version == 1
    assert model.poll() == []
