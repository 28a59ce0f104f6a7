"""The handle on the reward model, in process and on a real Ray, with its actor killed."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import psutil
import pytest
import ray
from meeting_world import OBS_SHAPE, meeting_batch, meeting_episodes, noisy_verdicts

from rlaif_ray.config import RewardModelConfig
from rlaif_ray.errors import CheckpointError, RlaifError, ShapeError
from rlaif_ray.reward_model import LocalRewardModel, RewardModel, RewardModelClient, actor

CONFIG = RewardModelConfig(min_labels=40, retrain_every=20, epochs=30)
WAIT_S = 240.0  # the actor gives way to all else, and starts anew after each death


@pytest.fixture(scope="module")
def labels():
    episodes, bad = meeting_episodes(200, seed=0)
    return episodes, noisy_verdicts(bad, 0).tolist()


@pytest.fixture
def client(ray_session):
    made = RewardModelClient(CONFIG, obs_shape=OBS_SHAPE, seed=0)
    yield made
    made.close()


def _add(handle, labels, a, b):
    handle.add(labels[0][a:b], labels[1][a:b])


def _kill(client):
    ray.kill(client._actor)


def test_local_fits_at_once_and_says_it_once(labels):
    local = LocalRewardModel(CONFIG, obs_shape=OBS_SHAPE, seed=0)
    _add(local, labels, 0, 30)
    assert local.poll() == []
    _add(local, labels, 30, 100)
    (published,) = local.poll()
    assert published.report.train_n + published.report.heldout_n == 100
    assert local.poll() == local.wait(1.0) == []


@pytest.mark.ray
def test_client_gives_what_local_gives(client, labels):
    local = LocalRewardModel(CONFIG, obs_shape=OBS_SHAPE, seed=0)
    for handle in (client, local):
        _add(handle, labels, 0, 150)
    (theirs,), (ours,) = client.wait(WAIT_S), local.wait(WAIT_S)
    batch = meeting_batch(20, seed=9)
    beliefs = [RewardModel.from_state(p.state).score(batch).belief for p in (theirs, ours)]
    assert np.allclose(*beliefs, atol=1e-5)
    assert theirs.report.gate_open
    assert theirs.report.version == ours.report.version == 1


@pytest.mark.ray
def test_adding_does_not_wait_for_fits_and_a_backlog_costs_few(client, labels):
    pid = ray.get(client._actor.__ray_call__.remote(lambda _: os.getpid()))
    os.kill(pid, signal.SIGSTOP)  # whoever waited for a fit now would wait for ever
    freed = threading.Timer(60.0, os.kill, (pid, signal.SIGCONT))
    freed.start()
    try:
        for i in range(0, 200, 10):
            _add(client, labels, i, i + 10)
        assert psutil.Process(pid).status() == psutil.STATUS_STOPPED
    finally:
        freed.cancel()
        os.kill(pid, signal.SIGCONT)
    outcomes = client.wait(WAIT_S)
    last = outcomes[-1].report
    assert last.train_n + last.heldout_n == 200
    assert len(outcomes) <= 3
    assert client.poll() == []


@pytest.mark.ray
def test_a_killed_actor_is_replaced_and_fed_again(client, labels):
    _add(client, labels, 0, 100)
    (first,) = client.wait(WAIT_S)
    _kill(client)
    _add(client, labels, 100, 200)
    (second,) = client.wait(WAIT_S)
    assert (first.report.version, second.report.version) == (1, 2)
    assert second.report.train_n + second.report.heldout_n == 200
    again = LocalRewardModel(CONFIG, obs_shape=OBS_SHAPE, seed=0)
    _add(again, labels, 0, 200)
    assert second.report.train_n == again.poll()[0].report.train_n


@pytest.mark.ray
def test_an_actor_that_keeps_dying_ends_in_an_error(client, labels, monkeypatch):
    monkeypatch.setattr(actor, "MOST_RESTARTS", 1)
    _add(client, labels, 0, 50)
    _kill(client)
    while client._restarts == 0:
        client.poll()
        time.sleep(0.02)
    _kill(client)
    with pytest.raises(RlaifError, match="died 2 times in a row"):
        client.wait(WAIT_S)


@pytest.mark.long
@pytest.mark.ray
def test_a_long_run_outlives_any_number_of_deaths_with_work_done_between(client, labels, monkeypatch):
    """A run of days may lose its actor now and then: only deaths in a row say that something is wrong."""
    monkeypatch.setattr(actor, "MOST_RESTARTS", 1)
    reports = []
    for first in range(0, 200, 50):
        _add(client, labels, first, first + 50)
        reports += [published.report for published in client.wait(WAIT_S)]
        _kill(client)
    assert [report.train_n + report.heldout_n for report in reports] == [50, 100, 150, 200]
    versions = [report.version for report in reports]
    assert versions == sorted(versions)
    assert versions[-1] >= 1


@pytest.mark.ray
def test_a_fit_that_fails_is_an_error_and_no_silence(client, labels, monkeypatch):
    monkeypatch.setattr(client._checks, "check", lambda *a: None)
    client.add(labels[0][:1], [7.0])
    with pytest.raises(RlaifError, match="expected within"):
        client.wait(WAIT_S)


@pytest.mark.ray
def test_state_goes_from_one_client_to_another(client, labels):
    _add(client, labels, 0, 100)
    client.wait(WAIT_S)
    state = client.state()
    assert state["considered"] == 100
    other = RewardModelClient(CONFIG, obs_shape=OBS_SHAPE, seed=0)
    try:
        other.restore(state)
        _add(other, labels, 0, 110)
        assert other.wait(WAIT_S) == []  # ten new labels: nothing is due
        _add(other, labels, 110, 140)
        (published,) = other.wait(WAIT_S)
        assert published.report.train_n + published.report.heldout_n == 140
        assert other.state()["considered"] == 140
        with pytest.raises(CheckpointError):
            other.restore({"format": 0})
    finally:
        other.close()


@pytest.mark.parametrize("kind", ["local", pytest.param("actor", marks=pytest.mark.ray)])
def test_a_rollback_forgets_labels_and_outcomes_so_that_none_counts_twice(kind, labels, request):
    handle = (
        request.getfixturevalue("client") if kind == "actor" else LocalRewardModel(CONFIG, obs_shape=OBS_SHAPE, seed=0)
    )
    beginning = handle.state()
    _add(handle, labels, 0, 100)
    handle.wait(WAIT_S)
    _add(handle, labels, 100, 150)  # fitted, and never polled
    handle.restore(beginning)
    assert handle.poll() == []
    handle.add(labels[0][:60], [1.0 - value for value in labels[1][:60]])  # were the old ones kept, each would be 1/2
    (published,) = handle.wait(WAIT_S)
    assert published.report.train_n + published.report.heldout_n == 60
    assert published.report.on_policy.n == published.report.heldout_n


@pytest.mark.ray
def test_bad_labels_are_refused_where_they_are_handed_in(client, labels):
    with pytest.raises(ShapeError, match="value 2"):
        client.add(labels[0][:1], [2.0])
    client.close()
    assert client.poll() == client.wait(1.0) == []
