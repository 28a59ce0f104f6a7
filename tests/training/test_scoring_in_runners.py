"""Episodes that runners have scored beside the learner's work: the same payments, and no second look by the driver."""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
from ppo_runs import Recorded, settings
from test_feedback_loop import Belief, Pool, Trainer, loop_of, published, runner, turn

from rlaif_ray.config import RewardModelConfig
from rlaif_ray.reward_model import RewardModel
from rlaif_ray.scoring import Remembering


class Rising(Belief):
    """Believes more with each step, version 2 twice as much."""

    def score(self, batch):
        scores = super().score(batch)
        return replace(scores, belief=(scores.belief - 0.5 * (self.version - 1)) * self.version)


class Counted(Rising):
    """Counts the batches that it was shown."""

    looks = 0

    def score(self, batch):
        Counted.looks += 1
        return super().score(batch)


@pytest.fixture
def paid(monkeypatch):
    """Trains a loop on the same walk, with runners that score by ``in_runner(iteration)`` (0: not at all)."""
    monkeypatch.setattr(Counted, "looks", 0)

    def run(in_runner, gate=lambda i: True):
        trainer = Trainer([published(1)])
        loop = loop_of(Pool(lambda e: None), trainer, **{"mix.weight": 1.0})
        loop._load = lambda state: Counted(state["version"])
        loop.learn_to_judge()
        sample, feedback = runner((5, 3, 4)), []
        Counted.looks = 0
        for i in range(6):
            rollout, version = sample(4), in_runner(i)
            if version:
                by = Rising(version)
                both = (by.score(rollout.episodes), by.score(rollout.open))
                rollout = replace(rollout, scores={version: both}, scored_by=version)
            trainer.publish = [published(2, gate_open=gate(i))] if i == 3 else []
            (mixed,), _ = turn(loop, [rollout], 10 * i)
            feedback.append(mixed.feedback)
        return np.concatenate(feedback), Counted.looks

    return run


def test_what_runners_scored_is_paid_alike_and_not_looked_at_again(paid):
    alone, looks = paid(lambda i: 0)
    beside, none = paid(lambda i: 1)
    assert looks >= 12
    assert none == 0
    assert np.array_equal(alone[:12], beside[:12])
    assert alone.any()


def test_an_episode_begins_under_the_version_that_its_runner_had(paid):
    """Version 2 comes with the fourth fragment, which runners have scored by 1: what began in it is paid by 1."""
    behind, looks = paid(lambda i: 1 if i < 4 else 2)
    never, _ = paid(lambda i: 1)
    assert looks <= 2  # those that began by 1 and go on while runners score by 2
    assert np.array_equal(behind[12:16], never[12:16])
    assert not np.array_equal(behind[16:], never[16:])


def test_nothing_that_begins_is_paid_by_runners_scores_where_the_gate_is_shut(paid):
    shut, _ = paid(lambda i: 1, gate=lambda i: False)
    alone, _ = paid(lambda i: 0, gate=lambda i: False)
    assert np.array_equal(shut, alone)
    assert not shut[-4:].any()


# ------------------------------------------------------------------------------------------------ with real runners


def serve(loop, version):
    """Put a version into service, as if the trainer had published it."""
    model = RewardModel.create(RewardModelConfig(), (12, 14, 4), seed=version)
    model.version = version
    loop._states[version] = model.state()
    loop._scorers[version] = Remembering(model)
    loop.version = version
    return model


def until(run, done, most=60):
    for _ in range(most):
        run.train()
        if done(run.rollouts[-1]):
            return run.rollouts[-1]
    raise AssertionError(f"not in {most} iterations: {[r.scored_by for r in run.rollouts[-1]]}")


def test_runners_are_given_the_version_in_service_and_a_new_one_when_it_changes(ray_session):
    config = settings(runners=2)
    config.rlaif["resources"] = {"overlap": True}  # the harder case: each fragment was asked for before the last came
    run = Recorded(config)
    try:
        run.train()
        assert [(r.runner, r.scored_by) for r in run.rollouts[-1]] == [(1, 0), (2, 0)]
        served = {}
        for version in (7, 8):
            served[version] = serve(run.algorithm.loop, version)
            rollouts = until(run, lambda found: [r.scored_by for r in found] == [version] * 2, most=5)  # noqa: B023
            for rollout in rollouts:
                assert set(rollout.scores) >= {version}
                for i, batch in enumerate((rollout.episodes, rollout.open)):
                    by = np.zeros(len(batch), int)
                    for one, scores in rollout.scores.items():
                        theirs = np.repeat(scores[i].version == one, batch.lengths + 1)
                        whole = served[one].score(batch)
                        assert np.allclose(scores[i].belief[theirs], whole.belief[theirs], atol=1e-5)
                        by += scores[i].version
                    assert set(by.tolist()) <= {*served}  # each episode by one version
        os.kill(run.runners(lambda r: os.getpid())[1], signal.SIGKILL)
        until(run, lambda found: len(found) == 1 or {r.scored_by for r in found} == {0, 8})
        until(run, lambda found: [r.scored_by for r in found] == [8, 8])  # its replacement is given it too
        run.algorithm.loop.version = 0
        until(run, lambda found: [r.scored_by for r in found] == [0, 0], most=5)
    finally:
        run.algorithm.stop()
