"""How an episode is paid: by its own version's scale, through a gate, and with a belief for the critic."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from test_feedback_loop import Belief, Pool, Still, Trainer, Walk, loop_of, published, runner, turn, verdict

from rlaif_ray import experiment
from rlaif_ray.columns import ColumnSampler
from rlaif_ray.config import load_config
from rlaif_ray.errors import EnvError
from rlaif_ray.networks import load_policy
from rlaif_ray.ppo import FeedbackPPO
from rlaif_ray.types import Scale


class Scaled(Belief):
    """Version n measures ends in units of n / 10 around one half, states in units of n / 20."""

    @property
    def scale(self):
        return Scale(0.5, self.version / 10, 0.25, self.version / 20)


def scaled(pool, trainer, **overrides):
    loop = loop_of(pool, trainer, **{"mix.normalise": True, "mix.weight": 1.0} | overrides)
    loop._load = lambda state: Scaled(state["version"])
    return loop


# ------------------------------------------------------------------------------------------------ normalised


def test_an_episode_is_paid_by_the_scale_of_the_version_it_began_under():
    trainer = Trainer([published(1)])
    loop = scaled(Pool(lambda e: None), trainer)
    sample = runner((6,))
    loop.learn_to_judge()
    first = turn(loop, [sample(3)], 10)[0][0]
    trainer.publish = [published(2)]
    second = turn(loop, [sample(3)], 20)[0][0]
    third = turn(loop, [sample(3)], 30)[0][0]
    assert loop.version == 2
    assert np.concatenate([first.feedback, second.feedback])[:, 0] == pytest.approx([0.05 / 0.1] * 6)
    assert third.feedback[:, 0] == pytest.approx([0.05 / 0.2] * 3)


def test_a_verdict_is_measured_by_the_same_scale_and_not_paid_before_there_is_one():
    trainer = Trainer()
    loop = scaled(Pool(lambda e: verdict(e.episode_id, 0.9)), trainer, **{"mix.credit": "terminal"})
    sample = runner((3,))
    (mixed,), _ = turn(loop, [sample(3)], 10)
    assert mixed.counts["task"] == 1
    assert loop.payer.ramp_from is None
    trainer.publish = [published(1)]
    (mixed,), _ = turn(loop, [sample(3)], 20)
    assert mixed.counts["direct"] == 1
    assert mixed.feedback[:, 0] == pytest.approx([0, 0, (0.9 - 0.5) / 0.1])


def test_steps_are_measured_by_the_scale_of_states():
    loop = scaled(Pool(lambda e: None), Trainer([published(1)]), **{"mix.credit": "step"})
    (mixed,), _ = turn(loop, [runner((4,))(3)], 10)  # still open: paid as it goes
    assert mixed.feedback[:, 0] == pytest.approx([(0.05 * t - 0.25) / 0.05 for t in (1, 2, 3)], abs=1e-5)


def test_a_part_kept_back_keeps_its_version_and_with_it_its_scale():
    trainer = Trainer([published(1)])
    pool = Pool(lambda e: verdict(e.episode_id, 1.0), delay=3)
    loop = scaled(pool, trainer, **{"feedback.late": "defer"})
    loop.learn_to_judge()
    sample = runner((4,))
    released = []
    for version in (2, 3, 4, 5):
        loop.ask([rollout := sample(4)], 10)
        loop.learn_to_judge()
        loop.mix(rollout, 10)
        released += loop.release()
        loop.end_iteration(10)
        trainer.publish = [published(version)]
    (_, one), *_ = released
    assert one.feedback.sum() == pytest.approx((1.0 - 0.0) / 0.1, abs=1e-4)


def test_the_weight_follows_the_version_in_service():
    trainer = Trainer([published(1)])  # balanced 0.9
    loop = loop_of(
        Pool(lambda e: None), trainer,
        **{"mix.weight_schedule": "gated", "reward_model.gate_accuracy": 0.8, "mix.weight": 2.0},
    )  # fmt: skip
    sample = runner((3,))
    _, figures = turn(loop, [sample(3)], 10)
    assert figures["mix"]["weight"] == pytest.approx(1.0)
    better = published(2)
    better.report = replace(better.report, balanced_accuracy=1.0)
    trainer.publish = [better]
    assert turn(loop, [sample(3)], 20)[1]["mix"]["weight"] == pytest.approx(2.0)
    trainer.publish = [published(2, gate_open=False, state=False)]
    assert turn(loop, [sample(3)], 30)[1]["mix"]["weight"] == 0


# ------------------------------------------------------------------------------------------------ gate


class Fetch(Walk):
    """Pays at its end alone, the later the less; as long as its limit is too late."""

    def step(self, action):
        obs, _, ended, _, info = super().step(action)
        late = self.length == 5
        return obs, (1 - 0.1 * self.count) * (ended and not late), ended and not late, ended and late, info


def fetching(lengths):
    makers = [lambda n=n, i=i: Fetch(n, i) for i, n in enumerate(lengths)]
    sampler = ColumnSampler(SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP))
    sampler.reset(0)
    return lambda T: sampler.sample(T, Still(), 0)


GATE = {"mix.combine": "gate", "mix.credit": "terminal", "mix.weight": 1.0, "mix.gate_truncated": 0.25}


@pytest.mark.parametrize("T", [1, 2, 7, 15])
def test_what_trains_is_the_gated_reward_however_an_episode_is_cut(T):
    """Environment 0: yes after 3 steps; 1: no after 3 steps; 2: yes, cut off by time after 5."""
    said = {0: 1.0, 1: 0.0, 2: 1.0}
    loop = loop_of(Pool(lambda e: verdict(e.episode_id, said[int(e.obs[0, 0])])), Trainer(), **GATE)
    sample, paid, ended = fetching((3, 3, 5)), np.zeros(3), np.zeros(3)
    for _ in range(15 // T):
        rollout = sample(T)
        (mixed,), _ = turn(loop, [rollout], 10)
        paid += mixed.reward.sum(0)
        ended += np.bincount(rollout.episode_cells[:, 0], minlength=3)
    assert ended.min() >= 2
    assert paid == pytest.approx(ended * np.array([1 - 0.1 * 3, 0.0, 0.25]), abs=1e-5)


def test_without_a_verdict_or_a_score_the_task_reward_stays_as_it_is():
    loop = loop_of(Pool(lambda e: None), Trainer(), **GATE)
    rollout = fetching((3, 5))(15)
    (mixed,), _ = turn(loop, [rollout], 10)
    assert np.array_equal(mixed.reward, rollout.fragment.task_reward)


def test_a_world_that_pays_on_the_way_is_refused_by_name():
    with pytest.raises(EnvError, match=r"mix\.combine: got 'gate'"):
        turn(loop_of(Pool(), Trainer(), **GATE), [runner((3,))(3)], 10)


# ------------------------------------------------------------------------------------------------ the critic's belief


def test_the_critic_is_given_each_episodes_own_version_and_one_half_where_there_is_none():
    trainer = Trainer()
    loop = loop_of(Pool(lambda e: None), trainer, **{"policy.critic_belief": True, "mix.credit": "terminal"})
    sample = runner((4, 6))
    (mixed,), _ = turn(loop, [sample(3)], 10)
    assert (mixed.belief == 0.5).all()
    assert (mixed.next_belief == 0.5).all()
    trainer.publish = [published(1)]
    (mixed,), _ = turn(loop, [sample(4)], 20)
    # Column 0: the episode that began without one ends; then three steps of a new one. Column 1: likewise, later.
    assert mixed.belief[:, 0] == pytest.approx([0.5, 0.0, 0.05, 0.10])
    assert mixed.next_belief[:, 0] == pytest.approx([0.5, 0.05, 0.10, 0.15])
    assert mixed.belief[:, 1] == pytest.approx([0.5, 0.5, 0.5, 0.0])
    assert mixed.next_belief[:, 1] == pytest.approx([0.5, 0.5, 0.5, 0.05])
    assert loop_of(Pool(), Trainer()).mix(sample(2), 10).belief is None


def test_a_part_kept_back_keeps_what_was_believed():
    loop = loop_of(
        Pool(lambda e: verdict(e.episode_id, 1.0), delay=1), Trainer([published(1)]),
        **{"policy.critic_belief": True, "mix.credit": "terminal", "feedback.late": "defer"},
    )  # fmt: skip
    loop.learn_to_judge()
    sample = runner((4,))
    turn(loop, [sample(4)], 10)
    loop.ask([sample(1)], 20)
    ((fragment, one),) = loop.release()
    assert one.counts["direct"] == 1
    assert fragment.shape == one.belief.shape == (4, 1)
    assert one.belief[:, 0] == pytest.approx([0.0, 0.05, 0.10, 0.15])
    assert one.next_belief[:, 0] == pytest.approx([0.05, 0.10, 0.15, 0.20])


# ------------------------------------------------------------------------------------------------ whole runs


TINY = {
    "env.num_envs": 32, "env.options": {"starts": "train"}, "policy.hidden": [8], "ppo.train_batch_size": 1_600,
    "ppo.minibatch_size": 400, "ppo.num_epochs": 1, "resources.env_runners": 0, "run.total_steps": 8_000,
    "run.evaluate_episodes": 0, "run.seed": 7, "feedback.fraction": 1.0, "feedback.labels_per_iteration": 16,
    "feedback.late": "wait", "feedback.wait_s": 60.0, "judge.profile": "perfect", "judge.frames": "spread",
    "reward_model.min_labels": 12, "reward_model.retrain_every": 6, "reward_model.epochs": 5,
    "reward_model.holdout": 0.5, "reward_model.gate_accuracy": 0.0, "reward_model.pace": "wait", "mix.source": "hybrid",
    "ppo.gamma": 0.0, "ppo.lambda_": 0.0,
}  # fmt: skip


@pytest.mark.parametrize(
    "mix",
    [
        {"mix.credit": "redistribute", "mix.normalise": True, "mix.weight_schedule": "gated"},
        {"mix.credit": "terminal", "mix.combine": "gate", "mix.gate_truncated": 0.1, "policy.critic_belief": True},
    ],
    ids=["normalised", "gated"],
)
def test_the_reward_that_is_logged_is_the_one_that_trains(mix, ray_session, tmp_path, monkeypatch):
    """Without a discount a value's target is the reward itself: what the learner was given tells what was paid."""
    given, rows = [], []
    learn = FeedbackPPO._learn
    monkeypatch.setattr(FeedbackPPO, "_learn", lambda self, columns: (given.append(columns), learn(self, columns))[1])
    config = load_config({}, TINY | {"run.dir": str(tmp_path)} | mix)
    done = experiment.train(config, monitor=rows.append)
    assert done.summary["provenance"]["direct"] + done.summary["provenance"]["distilled"] > 0
    assert len(rows) == len(given) >= 2
    for row, columns in zip(rows, given, strict=True):
        assert row["reward"]["mean"] == pytest.approx(columns["value_targets"].mean(), abs=1e-6)
    assert any(abs(row["reward"]["feedback_mean"]) > 1e-4 for row in rows)
    assert ("critic_belief" in given[-1]) == config.policy.critic_belief
    policy = load_policy(done.path)
    assert policy.spec.critic_belief == config.policy.critic_belief
    world = gym.make("rlaif_ray/Homegrid-v0")
    assert 0 <= policy.act(world.reset(seed=0)[0]) < 4
