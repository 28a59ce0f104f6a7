"""The pool at the end of a budget of labels, money or what a schedule has opened: what is taken on is what fits."""

from __future__ import annotations

from pathlib import Path

import pytest
from feedback_fakes import FakeServer, completion, tiny_episode
from test_feedback_pool import make_pool

from rlaif_ray.feedback.pool import FeedbackPool
from rlaif_ray.feedback.room import RECENT
from rlaif_ray.feedback.store import LabelStore

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


def test_the_label_budget_ends_asking_and_is_shared_with_the_next_run(
    pools: list[FeedbackPool], tmp_path: Path
) -> None:
    with FakeServer(lambda *_: completion()) as server:
        first = make_pool(pools, tmp_path, server.base_url, budget__labels=7)
        assert len(first.submit([tiny_episode(n) for n in range(5)], inclusion_probability=1.0, step=0)) == 5
        assert len(first.wait(120.0)) == 5
        assert first.stats().labels_left == 2
        assert first.room_at(0) == 2
        assert not first.stats().exhausted
        second = make_pool(pools, tmp_path, server.base_url, run="other", budget__labels=7)
        assert len(second.submit([tiny_episode(n) for n in range(10, 20)], inclusion_probability=1.0, step=0)) == 2
        assert len(second.wait(120.0)) == 2
        stats = second.stats()
        assert (stats.labels, stats.labels_left, stats.exhausted) == (2, 0, True)
        assert len(second.submit([tiny_episode(30)], inclusion_probability=1.0, step=0)) == 0
        assert server.asked == 7


def test_money_ends_asking_quietly(pools: list[FeedbackPool], tmp_path: Path) -> None:
    priced = {"judge__input_usd_per_mtok": 1000.0, "judge__output_usd_per_mtok": 1000.0}
    with FakeServer(lambda *_: completion()) as server:
        pool = make_pool(pools, tmp_path, server.base_url, budget__usd=8.0, **priced)
        pool.submit([tiny_episode(n) for n in range(60)], inclusion_probability=1.0, step=0)
        labels = pool.wait(120.0)
        stats = pool.stats()
        assert 0 < len(labels) < 60
        assert stats.labels == len(labels) == server.asked
        assert stats.spend_usd == pytest.approx(0.12 * len(labels))
        assert stats.spend_usd <= 8.0
        assert stats.exhausted
        assert stats.failed == 0


def test_a_schedule_opens_the_budget_step_by_step(pools: list[FeedbackPool], tmp_path: Path) -> None:
    with FakeServer(lambda *_: completion()) as server:
        pool = make_pool(
            pools, tmp_path, server.base_url, budget__run_labels=10, budget__schedule="uniform", run__total_steps=1000
        )
        for step, room, labels in ((0, 0, 0), (300, 3, 3), (350, 0, 3), (800, 5, 8), (1000, 2, 10)):
            assert pool.room_at(step) == room
            taken = pool.submit([tiny_episode(step + n) for n in range(12)], inclusion_probability=1.0, step=step)
            assert len(taken) == room
            assert len(pool.wait(120.0)) == room
            assert pool.stats().labels == labels
            assert pool.stats().exhausted is (step == 1000)
        assert server.asked == 10


def test_money_makes_room_by_the_dearest_question_of_late(pools: list[FeedbackPool], tmp_path: Path) -> None:
    """Who is drawn and taken on is asked: nobody is turned away afterwards for being dear."""
    priced = {"judge__input_usd_per_mtok": 1000.0, "judge__output_usd_per_mtok": 1000.0, "budget__usd": 8.0}
    with FakeServer(lambda *_: completion()) as server:
        pool = make_pool(pools, tmp_path, server.base_url, **priced)
        pool.submit([tiny_episode(0)], inclusion_probability=1.0, step=0)
        assert len(pool.wait(120.0)) == 1
        for number in range(1, 100):
            room = pool.room_at(0)
            if not room:
                break
            episodes = [tiny_episode(100 * number + i) for i in range(min(room, 5))]
            assert len(pool.submit(episodes, inclusion_probability=1.0, step=0)) == len(episodes)
            assert len(pool.wait(120.0)) == len(episodes)
        assert pool.room_at(0) == 0
        stats = pool.stats()
        assert stats.exhausted
        with LabelStore(tmp_path / "labels.sqlite", readonly=True) as store:
            dearest = store.dearest("run", RECENT)
        assert 8.0 - dearest.usd < stats.spend_usd <= 8.0
        pool.close()
        again = make_pool(pools, tmp_path, server.base_url, **priced)
        assert again.room_at(0) == 0  # it knows from the store what a question costs
