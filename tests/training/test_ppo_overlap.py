"""Sampling one update ahead: how old what is learned from is, that nothing is lost, and what a rollback drops."""

import copy
import os
import signal

import numpy as np
import pytest
import torch
from ppo_runs import Recorded, same, settings

from rlaif_ray.errors import EnvError


@pytest.fixture(scope="module")
def ahead(ray_session):
    config = settings(runners=2)
    config.rlaif["resources"] = {"overlap": True}
    run = Recorded(config)
    yield run
    run.algorithm.stop()


def test_a_fragment_is_acted_by_the_policy_of_one_update_ago(ahead):
    ages = [ahead.train()["policy_age"] for _ in range(4)]
    assert ages == [0, 1, 1, 1]
    versions = [[r.fragment.policy_version for r in rollouts] for rollouts in ahead.rollouts]
    assert all(a == b for a, b in versions)  # both runners alike
    # The second was asked for before the first update's weights were handed out: the same policy acted both.
    assert versions[0][0] == versions[1][0] < versions[2][0] < versions[3][0]


def test_every_step_is_still_learned_from_once(ahead):
    row = ahead.train(2)
    assert row["steps"] == len(ahead.rollouts) * 256
    assert row["lost_steps"] == 0
    seen = [(i, s) for rs in ahead.rollouts for r in rs for i, s in zip(
        r.fragment.episode_id.ravel().tolist(), r.fragment.step.ravel().tolist(), strict=True)]  # fmt: skip
    assert len(seen) == len(set(seen)) == row["steps"]
    for rollouts, (batch, _) in zip(ahead.rollouts, ahead.batches, strict=True):
        sampled = np.sort(np.concatenate([r.fragment.logp.ravel() for r in rollouts]))
        assert np.array_equal(np.sort(batch["action_logp"]), sampled)


def test_a_rollback_drops_what_was_acted_under_later_weights(ahead, tmp_path):
    ahead.train()
    ahead.algorithm.save_checkpoint(str(tmp_path))
    weights = ahead.weights()
    ahead.train(2)
    ahead.algorithm.load_checkpoint(str(tmp_path))
    assert same(ahead.weights(), weights)
    restored = copy.deepcopy(ahead.algorithm.get_learner_module().network)
    assert ahead.train()["policy_age"] == 0
    with torch.no_grad():
        for fragment in (rollout.fragment for rollout in ahead.rollouts[-1]):
            logits = restored(torch.tensor(fragment.obs[0]))[0]
            assert np.allclose(fragment.logits[0], logits.numpy(), atol=1e-5)


def test_a_runner_that_dies_is_replaced_and_the_others_go_on(ahead):
    before = ahead.algorithm.lost_steps
    pids = ahead.runners(lambda r: os.getpid())
    victim = min(i for i in pids if i)
    os.kill(pids[victim], signal.SIGKILL)
    for _ in range(60):
        row = ahead.train()
        if len(ahead.rollouts[-1]) == 2 and row["lost_steps"] > before:
            break
    assert row["lost_steps"] == before + 128
    assert len(ahead.rollouts[-1]) == 2


def test_a_run_in_which_no_runner_ever_answers_ends_with_an_error(ahead, monkeypatch):
    monkeypatch.setattr("rlaif_ray.ppo.NO_ANSWER_S", 0.0)
    monkeypatch.setattr(ahead.algorithm.env_runner_group, "fetch_ready_async_reqs", lambda *args, **kwargs: [])
    with pytest.raises(EnvError, match="no environment runner has answered"):
        ahead.algorithm._act()
