"""The pool where its processes die: nothing is lost, nothing is paid for twice."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import ray
from feedback_fakes import (
    DeadlyRenderer,
    FakeServer,
    completion,
    tiny_episode,
)
from test_feedback_pool import make_pool, slowly

from rlaif_ray.feedback.pool import FeedbackPool

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


def test_a_killed_questioner_is_replaced_and_written_off(pools: list[FeedbackPool], tmp_path: Path) -> None:
    with FakeServer(lambda number, _: slowly(0.0 if number < 2 or number > 4 else 60.0)) as server:
        pool = make_pool(pools, tmp_path, server.base_url, judge__api_key_env="TINY_KEY")
        pool.submit([tiny_episode(n) for n in range(2)], inclusion_probability=1.0, step=0)
        assert len(pool.wait(30.0)) == 2
        pool.submit([tiny_episode(n) for n in range(2, 5)], inclusion_probability=1.0, step=0)
        deadline = time.monotonic() + 30.0
        while server.asked < 5 and time.monotonic() < deadline:
            time.sleep(0.05)
        victim = int(ray.get(pool._workers[0].identity).split(":")[1])
        os.kill(victim, signal.SIGKILL)
        assert sorted(label.episode_id for label in pool.wait(60.0)) == [2, 3, 4]  # written off, and asked again
        assert pool.in_flight == 0
        stats = pool.stats()
        assert (stats.failed, stats.asked_again, stats.labels, server.asked) == (0, 3, 8, 8)
        assert stats.reserved_usd == 0.0
        pool.submit([tiny_episode(9)], inclusion_probability=1.0, step=0)
        assert [label.episode_id for label in pool.wait(30.0)] == [9]


def test_a_question_that_kills_its_process_is_let_go(pools: list[FeedbackPool], tmp_path: Path) -> None:
    with FakeServer(lambda *_: completion()) as server:
        pool = make_pool(pools, tmp_path, server.base_url, renderer=DeadlyRenderer())
        pool.submit([tiny_episode(n) for n in (2, 13, 4)], inclusion_probability=1.0, step=0)
        assert sorted(label.episode_id for label in pool.wait(60.0)) in ([2, 4], [2], [4], [])
        assert pool.stats().failed >= 1
        pool.submit([tiny_episode(6)], inclusion_probability=1.0, step=0)
        assert [label.episode_id for label in pool.wait(30.0)] == [6]


def test_a_killed_store_loses_nothing(pools: list[FeedbackPool], tmp_path: Path) -> None:
    with FakeServer(lambda *_: slowly(0.5)) as server:
        pool = make_pool(pools, tmp_path, server.base_url, feedback__pool_actors=2)
        pool.submit([tiny_episode(n) for n in range(24)], inclusion_probability=1.0, step=0)
        deadline = time.monotonic() + 30.0
        while server.asked < 4 and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(ray.get(pool._store.actor.__ray_call__.remote(lambda _: os.getpid())), signal.SIGKILL)
        assert sorted(label.episode_id for label in pool.wait(60.0)) == list(range(24))
        stats = pool.stats()
        assert (stats.labels, stats.failed, stats.reserved_usd, server.asked) == (24, 0, 0.0, 24)
