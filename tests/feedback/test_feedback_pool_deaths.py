"""The pool where its processes die: nothing is lost, nothing is paid for twice."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest
import ray
from aiohttp import web
from feedback_fakes import (
    DeadlyRenderer,
    FakeServer,
    asked_about,
    completion,
    tiny_config,
    tiny_episode,
)
from test_feedback_pool import make_pool, slowly

from rlaif_ray.feedback.actors import RemoteStore, StoreHandle
from rlaif_ray.feedback.ask import Asker
from rlaif_ray.feedback.budget import Caps
from rlaif_ray.feedback.judge import ChatJudge
from rlaif_ray.feedback.pool import FeedbackPool
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.types import Label

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


def test_a_killed_questioner_is_replaced_and_written_off(pools: list[FeedbackPool], tmp_path: Path) -> None:
    with FakeServer(lambda number, _: slowly(0.0 if number < 2 or number > 4 else 60.0)) as server:
        pool = make_pool(pools, tmp_path, server.base_url, judge__api_key_env="TINY_KEY")
        pool.submit([tiny_episode(n) for n in range(2)], inclusion_probability=1.0, step=0)
        assert len(pool.wait(120.0)) == 2
        pool.submit([tiny_episode(n) for n in range(2, 5)], inclusion_probability=1.0, step=0)
        deadline = time.monotonic() + 120.0
        while server.asked < 5 and time.monotonic() < deadline:
            time.sleep(0.05)
        victim = int(ray.get(pool._staff.members[0].identity).split(":")[1])
        os.kill(victim, signal.SIGKILL)
        assert sorted(label.episode_id for label in pool.wait(120.0)) == [2, 3, 4]  # written off, and asked again
        assert pool.in_flight == 0
        stats = pool.stats()
        assert (stats.failed, stats.asked_again, stats.labels, server.asked) == (0, 3, 8, 8)
        assert stats.reserved_usd == 0.0
        pool.submit([tiny_episode(9)], inclusion_probability=1.0, step=0)
        assert [label.episode_id for label in pool.wait(120.0)] == [9]


def test_a_question_that_kills_its_process_is_let_go(pools: list[FeedbackPool], tmp_path: Path) -> None:
    with FakeServer(lambda *_: completion()) as server:
        pool = make_pool(pools, tmp_path, server.base_url, renderer=DeadlyRenderer())
        pool.submit([tiny_episode(n) for n in (2, 13, 4)], inclusion_probability=1.0, step=0)
        assert sorted(label.episode_id for label in pool.wait(120.0)) in ([2, 4], [2], [4], [])
        assert pool.stats().failed >= 1
        pool.submit([tiny_episode(6)], inclusion_probability=1.0, step=0)
        assert [label.episode_id for label in pool.wait(120.0)] == [6]


def test_a_killed_store_loses_nothing(pools: list[FeedbackPool], tmp_path: Path) -> None:
    with FakeServer(lambda *_: slowly(0.5)) as server:
        pool = make_pool(pools, tmp_path, server.base_url, feedback__pool_actors=2)
        pool.submit([tiny_episode(n) for n in range(24)], inclusion_probability=1.0, step=0)
        deadline = time.monotonic() + 120.0
        while server.asked < 4 and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(ray.get(pool._store.actor.__ray_call__.remote(lambda _: os.getpid())), signal.SIGKILL)
        assert sorted(label.episode_id for label in pool.wait(120.0)) == list(range(24))
        stats = pool.stats()
        assert (stats.labels, stats.failed, stats.reserved_usd, server.asked) == (24, 0, 0.0, 24)


def test_who_asks_from_another_node_loses_nothing_when_the_stores_process_is_killed(tmp_path: Path) -> None:
    handle = StoreHandle(tmp_path / "labels.sqlite")
    victim = int(ray.get(handle.actor.__ray_call__.remote(lambda _: os.getpid())))

    def respond(number: int, _: object) -> object:
        if number == 3:
            os.kill(victim, signal.SIGKILL)
        return web.json_response({}, status=503) if number == 5 else completion()

    async def asking(base_url: str) -> list[Label | None]:
        config = tiny_config(base_url)
        judge = ChatJudge(config.judge, key=None)
        asker = Asker(judge, RemoteStore(handle), Caps(labels=8), config.judge, concurrency=4, backoff_s=0.01)
        try:
            return await asker.ask_all([asked_about(number, judge.identity) for number in range(10)], at_once=4)
        finally:
            await judge.close()

    with FakeServer(respond) as server:
        labels = asyncio.run(asking(server.base_url))
    given = [label for label in labels if label is not None]
    assert (len(given), labels.count(None), server.asked) == (8, 2, 9)
    with LabelStore(tmp_path / "labels.sqlite", readonly=True) as store:
        assert store.labels() == sorted(given, key=lambda label: label.label_id)
        account = store.account(Caps())
    assert (account.spent.labels, account.reserved.labels) == (8, 0)
    ray.kill(handle.actor)
