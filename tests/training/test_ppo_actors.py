"""FeedbackPPO with actors: runners that act elsewhere and die, learners in parallel, Tune."""

import os
import signal
import time

import numpy as np
import pytest
from ppo_runs import Recorded, same, settings
from ray import tune

from rlaif_ray.columns import ID_BITS
from rlaif_ray.errors import EnvError, UnknownNameError
from rlaif_ray.ppo import FeedbackPPO


@pytest.fixture(scope="module")
def two_runners(ray_session):
    config = settings(runners=2)
    config.rlaif["resources"] = {"overlap": False}  # in step; sampling ahead has tests of its own
    run = Recorded(config)
    yield run
    run.algorithm.stop()


def weights_of(run):
    return run.runners(lambda r: {k: v.clone() for k, v in r.module.state_dict().items()})


def test_two_runners_share_the_work_and_neither_steps_nor_draws(two_runners):
    run = two_runners
    row = run.train(3)
    assert row["steps"] == 3 * 256
    for i, rollouts in enumerate(run.rollouts):
        assert [r.fragment.shape for r in rollouts] == [(32, 4)] * 2
        a, b = (r.fragment for r in rollouts)
        assert not set(a.episode_id.ravel().tolist()) & set(b.episode_id.ravel().tolist())
        assert not np.array_equal(a.action, b.action)
        assert not np.array_equal(a.obs, b.obs)
        assert len(run.batches[i][0]) == 256
    assert len({r.fragment.episode_id.min() >> ID_BITS for r in run.rollouts[0]}) == 2
    versions = [rollouts[0].fragment.policy_version for rollouts in run.rollouts]
    assert versions == sorted(set(versions))
    learner = run.weights()
    assert all(same(w, learner) for w in weights_of(run).values())


def test_what_rllib_hands_to_a_restarted_runner_holds_no_generator(two_runners):
    """It copies the local runner's state to every new one: with a generator in it they would all draw alike."""
    state = two_runners.algorithm.env_runner.get_state(not_components=["rl_module"])
    assert set(state) == {"num_env_steps_sampled_lifetime"}
    config = two_runners.algorithm.config
    assert not config.merge_env_runner_states  # the call that merges would wait behind a running sample()
    assert not config.broadcast_env_runner_states


def test_rolling_back_reaches_learner_and_every_runner_and_gives_each_its_own_generators(two_runners, tmp_path):
    run = two_runners
    run.algorithm.save_checkpoint(str(tmp_path))
    weights, optimizer, steps = run.weights(), run.optimizer(), run.algorithm.steps
    random = run.runners(lambda r: r.random_state())
    assert not same(random[1]["actor"], random[2]["actor"])
    assert not same(random[1]["env"], random[2]["env"])
    run.train(2)
    assert not same(run.weights(), weights)
    run.algorithm.load_checkpoint(str(tmp_path))
    assert same(run.weights(), weights)
    assert same(run.optimizer(), optimizer)
    assert all(same(w, weights) for w in weights_of(run).values())
    restored = run.runners(lambda r: r.random_state())
    assert all(same(restored[i]["actor"], random[i]["actor"]) for i in (1, 2))
    assert all(restored[i]["next_id"] > random[i]["next_id"] for i in (1, 2))  # numbers are never given twice
    before = max(int(r.fragment.episode_id.max()) for r in run.rollouts[-1])
    assert run.train()["steps"] == steps + 256
    assert max(int(r.fragment.episode_id.max()) for r in run.rollouts[-1]) > before


def test_training_survives_a_runner_and_its_replacement_repeats_nothing(two_runners):
    run = two_runners
    run.train()
    seeds = run.runners(lambda r: getattr(r, "_runner_seed", None))
    known = {int(i) for rollouts in run.rollouts for r in rollouts for i in r.fragment.episode_id.ravel()}
    first_obs = run.rollouts[0][0].fragment.obs[0]
    began, steps, lost = len(run.rollouts), run.algorithm.steps, run.algorithm.lost_steps
    os.kill(run.runners(lambda r: os.getpid())[1], signal.SIGKILL)  # gone at once: the next iteration is without it
    deadline, again = time.monotonic() + 240, seeds
    while again.get(1, seeds[1]) == seeds[1] and time.monotonic() < deadline:
        row = run.train()  # goes on with whoever answers
        again = run.runners(lambda r: getattr(r, "_runner_seed", None))
    row = run.train()
    answers = [len(rollouts) for rollouts in run.rollouts[began:]]
    assert 1 in answers
    assert answers[-1] == 2
    assert row["steps"] == steps + 128 * sum(answers)
    assert row["lost_steps"] == lost + 128 * answers.count(1)
    assert again[2] == seeds[2]
    assert again[1] != seeds[1]
    new = run.rollouts[-1][0]
    assert not known & set(new.fragment.episode_id.ravel().tolist())
    assert not np.array_equal(new.fragment.obs[0], first_obs)
    run.train(2)
    learner = run.weights()
    assert all(same(w, learner) for w in weights_of(run).values())


def test_a_run_in_which_no_runner_ever_answers_ends_with_an_error(two_runners, monkeypatch):
    algorithm = two_runners.algorithm
    monkeypatch.setattr("rlaif_ray.ppo.NO_ANSWER_S", 0.0)
    monkeypatch.setattr(algorithm.env_runner_group, "foreach_env_runner", lambda *args, **kwargs: [])
    with pytest.raises(EnvError, match="no environment runner has answered"):
        algorithm._act()


# ------------------------------------------------------------------------------------------------ learners


def test_learners_in_parallel_take_equal_shares_of_ragged_batches_and_carry_the_rest(build):
    config = settings(train_batch_size_per_learner=128).learners(num_learners=2, num_cpus_per_learner=0)
    config = config.evaluation(evaluation_interval=3, evaluation_num_env_runners=1, evaluation_duration=5)
    run = build(config)
    mix, kept = run.algorithm.loop.mix, [255, 254, 131]
    left = iter(kept)

    def mixing(rollout, step):
        one = mix(rollout, step)
        one.learn.ravel()[next(left) :] = False
        return one

    run.algorithm.loop.mix = mixing
    first = run.weights()
    for _ in range(3):
        row = run.train()  # would not come back if the learners did different numbers of updates
    assert [len(batch) for batch, _ in run.batches] == [254, 254, 132]
    assert sum(len(batch) for batch, _ in run.batches) == sum(kept)
    assert [kwargs["num_total_minibatches"] for _, kwargs in run.batches] == [4, 4, 2]  # of 64: 3.97, 3.97, 2.06
    assert not same(run.weights(), first)
    found = run.algorithm.learner_group.foreach_learner(
        lambda learner: {k: v.clone() for k, v in learner.module["default_policy"].unwrapped().state_dict().items()}
    )
    both = [result.get() for result in found]
    assert len(both) == 2
    assert same(*both)
    assert same(both[0], run.weights())
    assert row["evaluation"]["env_runners"]["num_episodes"] == 5
    assert row["steps"] == 3 * 256


# ------------------------------------------------------------------------------------------------ Tune


def test_tune_runs_a_trial_with_our_sections_in_its_search_space(ray_session, tmp_path):
    space = settings().reward_mix(weight=0.5).to_dict() | {
        "mix": {"ramp_steps": 7}, "policy": {"hidden": [16]}, "lr": tune.grid_search([0.01]),
    }  # fmt: skip
    tuner = tune.Tuner(
        FeedbackPPO,
        param_space=space,
        run_config=tune.RunConfig(
            stop={"training_iteration": 1}, storage_path=str(tmp_path), name="sweep", verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=True),
        ),
    )  # fmt: skip
    result = tuner.fit()[0]
    assert result.error is None
    assert result.metrics["steps"] == 256
    assert result.metrics["config"]["rlaif"]["mix"] == {"weight": 0.5, "ramp_steps": 7}
    from rlaif_ray.networks import load_policy

    assert load_policy(result.checkpoint.path).spec.hidden == (16,)


def test_a_search_space_is_merged_key_by_key_and_unknown_keys_are_refused():
    config = settings().reward_mix(source="hybrid", weight=0.5)
    config.update_from_dict({"mix": {"weight": 0.25}, "num_epochs": 7, "judge": {"profile": "perfect"}})
    whole = config.to_config()
    assert (whole.mix.source, whole.mix.weight, whole.ppo.num_epochs) == ("hybrid", 0.25, 7)
    assert whole.judge.profile == "perfect"
    with pytest.raises(UnknownNameError, match=r"'num_epoch'.*did you mean 'num_epochs'"):
        config.update_from_dict({"num_epoch": 3})
