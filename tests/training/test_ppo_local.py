"""FeedbackPPO with the driver acting itself: counts, schedules, determinism, checkpoints."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from ppo_runs import OwnModule, Recorded, same, settings
from ray.rllib.policy.sample_batch import SampleBatch

from rlaif_ray.errors import EnvError
from rlaif_ray.networks import load_policy


def test_every_step_is_learned_from_once_and_counted_once(build):
    run = build(settings())
    row = run.train(3)
    fragments = [r.fragment for rollouts in run.rollouts for r in rollouts]
    assert row["steps"] == run.algorithm.steps == sum(f.env_steps() for f in fragments) == 3 * 256
    assert row["lost_steps"] == 0
    assert row["iteration_steps"] == 256
    for fragment, (batch, _) in zip(fragments, run.batches, strict=True):
        assert len(batch) == 256

        # As sets of rows: the batch is a permutation of the fragment.
        def rows(logp, obs):
            return sorted(zip(logp.ravel().tolist(), obs.reshape(256, -1).sum(-1).tolist(), strict=True))

        assert rows(batch["action_logp"], batch["obs"]) == rows(fragment.logp, fragment.obs)
        assert batch["advantages"].mean() == pytest.approx(0, abs=1e-5)
        assert batch["advantages"].std() == pytest.approx(1, abs=1e-3)
    assert not np.array_equal(run.batches[0][0]["action_logp"], fragments[0].logp.ravel())  # shuffled at once
    assert [kwargs["timesteps"]["num_env_steps_sampled_lifetime"] for _, kwargs in run.batches] == [256, 512, 768]


def test_versions_grow_and_an_episode_over_two_fragments_keeps_the_first(build):
    run = build(settings())
    run.train(4)
    versions = [rollouts[0].fragment.policy_version for rollouts in run.rollouts]
    assert versions == sorted(set(versions))
    begun = {}
    for (rollout,), version in zip(run.rollouts, versions, strict=True):
        for i in rollout.fragment.episode_id[rollout.fragment.step == 0].tolist():
            begun[i] = version
    ended = [(e.episode_id, e.policy_version) for (r,) in run.rollouts for e in r.episodes]
    assert ended
    assert all(begun[i] == version for i, version in ended)


def test_learning_rate_and_entropy_follow_the_steps(build):
    config = settings()
    run = build(config)
    assert config.to_config().run.total_steps == 2_048
    for iteration in range(1, 9):
        learner = run.train()["learners"]["default_policy"]
        progress = iteration * 256 / 2_048
        assert learner["default_optimizer_learning_rate"] == pytest.approx(1e-3 - (1e-3 - 1e-4) * progress, rel=1e-4)
        assert learner["curr_entropy_coeff"] == pytest.approx(0.03 - 0.027 * progress, rel=1e-4)


def test_one_seed_gives_one_run_and_another_seed_another(ray_session):
    found = []
    for seed in (3, 3, 4):
        run = Recorded(settings(seed=seed))
        run.train(3)
        found.append(run.weights())
        run.algorithm.stop()
    assert same(found[0], found[1])
    assert not same(found[0], found[2])


def test_truth_is_in_the_audit_and_nowhere_else(build):
    """What ``info`` knew is reported under ``truth/`` and reaches neither learner, episodes nor RLlib's own metrics."""
    run = build(settings())
    for _ in range(6):
        row = run.train()
        if row["task"]["episodes"]:
            break
    assert set(row["truth"]) == {"found", "cat_survived"}
    elsewhere = {k: v for k, v in row.items() if k not in ("truth", "config")}
    assert not any(name in str(elsewhere) for name in ("found", "cat_survived", "cat_squashed"))
    assert not any("truth" in name or "found" in name for batch, _ in run.batches for name in batch)
    episode = run.rollouts[-1][0].episodes[0]
    assert set(vars(episode)) == {
        "episode_id", "obs", "states", "actions", "task_return", "terminated", "policy_version",
    }  # fmt: skip


def test_a_checkpoint_goes_on_in_a_new_algorithm(build, tmp_path):
    first = build(settings())
    first.train(3)
    folder = str(tmp_path)
    first.algorithm.save_checkpoint(folder)
    weights, optimizer, random = first.weights(), first.optimizer(), first.runners(lambda r: r.random_state())
    again = []
    for _ in range(2):
        run = build(settings(seed=99))  # its own seed must not matter any more
        run.algorithm.load_checkpoint(folder)
        assert same(run.weights(), weights)
        assert same(run.runners(lambda r: r.module.state_dict())[0], weights)
        assert same(run.optimizer(), optimizer)
        assert (run.algorithm.steps, run.algorithm.iteration) == (768, 3)
        row = run.train()
        assert (row["steps"], row["training_iteration"]) == (1_024, 4)
        assert row["learners"]["default_policy"]["default_optimizer_learning_rate"] == pytest.approx(
            1e-3 - 9e-4 * 1_024 / 2_048, rel=1e-4
        )
        assert row["lost_steps"] == 0
        again.append((run.weights(), run.rollouts[0][0].fragment))
    assert same(again[0][0], again[1][0])
    one, two = again[0][1], again[1][1]
    assert np.array_equal(one.obs, two.obs)
    assert np.array_equal(one.action, two.action)
    old = {int(i) for (r,) in first.rollouts for i in r.fragment.episode_id.ravel()}
    assert not old & set(one.episode_id.ravel().tolist())
    assert one.policy_version > first.rollouts[-1][0].fragment.policy_version
    assert random[0]["next_id"] <= one.episode_id.min()
    policy = load_policy(folder)
    assert same(policy.network.state_dict(), {k.removeprefix("network."): v for k, v in weights.items()})


def test_an_older_checkpoint_on_a_live_algorithm_rolls_everything_back(build, tmp_path):
    run = build(settings())
    run.train(2)
    run.algorithm.save_checkpoint(str(tmp_path))
    weights, optimizer = run.weights(), run.optimizer()
    run.train(2)
    assert not same(run.weights(), weights)
    run.algorithm.load_checkpoint(str(tmp_path))
    assert same(run.weights(), weights)
    assert same(run.runners(lambda r: r.module.state_dict())[0], weights)
    assert same(run.optimizer(), optimizer)
    assert run.algorithm.steps == 512
    state = run.algorithm.get_state()
    run.train(1)
    run.algorithm.set_state(state)  # the other way in, which RLlib makes a silent no-op
    assert same(run.weights(), weights)
    assert same(run.runners(lambda r: r.module.state_dict())[0], weights)
    before = run.rollouts[-1][0].fragment.episode_id.max()
    assert run.train()["steps"] == 768
    assert run.rollouts[-1][0].fragment.episode_id.min() > before


def test_rows_left_out_by_drop_do_not_reach_the_learner(build):
    run = build(settings())
    mix = run.algorithm.loop.mix

    def leave_out(keep):
        def mixing(rollout, step):
            one = mix(rollout, step)
            learn = np.zeros_like(one.learn)
            learn.ravel()[:keep] = True
            return type(one)(one.reward, one.feedback, learn, one.counts)

        return mixing

    run.algorithm.loop.mix = leave_out(101)
    run.train()
    assert len(run.batches[-1][0]) == 101
    weights = run.weights()
    run.algorithm.loop.mix = leave_out(0)
    row = run.train()  # nothing to learn from at all
    assert len(run.batches) == 1
    assert row["steps"] == 512
    assert same(run.weights(), weights)


# ------------------------------------------------------------------------------------------------ other worlds


def test_box_actions_learn_on_pendulum(build):
    run = build(settings(env="Pendulum-v1"))
    run.train(2)
    fragment = run.rollouts[-1][0].fragment
    assert fragment.action.shape == (32, 8, 1)
    assert fragment.logits.shape == (32, 8, 2)
    mean, log_std = torch.from_numpy(fragment.logits).chunk(2, -1)
    normal = torch.distributions.Normal(mean, log_std.exp())
    assert np.allclose(normal.log_prob(torch.tensor(fragment.action)).sum(-1), fragment.logp, atol=1e-4)


class Corridor(gym.Env):
    """Three cells; ends at the last; ``info`` knows a number."""

    def __init__(self):
        self.observation_space = gym.spaces.Box(0, 3, (1,), np.float32)
        self.action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = 0
        return np.array([0], np.float32), {}

    def step(self, action):
        self.at += int(action)
        return np.array([self.at], np.float32), -1.0, self.at == 3, False, {"secret": 7.0} if self.at == 3 else {}


def corridors(context):
    return SyncVectorEnv([Corridor] * int(context["num_envs"]), autoreset_mode=AutoresetMode.SAME_STEP)


def next_step(context):
    return SyncVectorEnv([Corridor] * int(context["num_envs"]))


def test_a_creator_of_the_users_own_is_a_world(build):
    run = build(settings(env=corridors))
    row = run.train()
    assert row["truth"] == {"secret": 7.0}
    assert row["task"]["episode_return_mean"] <= -3


def test_a_world_that_resets_in_the_next_step_is_refused(ray_session):
    with pytest.raises(EnvError, match="SAME_STEP"):
        Recorded(settings(env=next_step))


def test_a_network_of_the_users_own_is_taken_by_its_import_path(build, tmp_path):
    run = build(settings().policy(network="ppo_runs:OwnModule"))
    module = run.algorithm.get_learner_module()
    assert isinstance(module, OwnModule)
    before = run.weights()
    run.train(2)
    assert not same(run.weights(), before)
    fragment = run.rollouts[0][0].fragment
    with torch.no_grad():
        module.load_state_dict(before)
        values = module.compute_values({"obs": torch.from_numpy(fragment.obs[0])}).numpy()
    assert np.allclose(fragment.value[0], values, atol=1e-6)
    assert run.algorithm.policy() is None
    run.algorithm.save_checkpoint(str(tmp_path))
    assert not (tmp_path / "policy.pt").exists()


def test_sample_batches_have_only_what_the_loss_needs(build):
    run = build(settings())
    run.train()
    batch, _ = run.batches[0]
    assert isinstance(batch, SampleBatch)
    assert set(batch) == {"obs", "actions", "action_logp", "action_dist_inputs", "advantages", "value_targets"}


# ------------------------------------------------------------------------------------------------ evaluation


def test_evaluation_runs_exactly_so_many_episodes_on_a_runner_of_its_own(build):
    config = settings().evaluation(evaluation_interval=2, evaluation_num_env_runners=0, evaluation_duration=13)
    run = build(config)
    assert "evaluation" not in run.train()
    row = run.train()
    found = row["evaluation"]["env_runners"]
    assert found["num_episodes"] == 13
    assert found["episode_len_mean"] >= 1
    assert row["steps"] == 512  # evaluation counts no training steps
    before = run.algorithm.steps
    assert run.algorithm.evaluate()["env_runners"]["num_episodes"] == 13
    assert run.algorithm.steps == before
    trained, evaluated = run.algorithm.env_runner._runner_seed, run.algorithm.eval_env_runner._runner_seed
    assert trained != evaluated
