"""The pool on a real Ray: nothing blocks, nothing is lost, nothing goes beyond the budget."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from aiohttp import web
from feedback_fakes import KEY, BrokenRenderer, FakeServer, TinyRenderer, completion, tiny_config, tiny_episode

from rlaif_ray.errors import ConfigError, JudgeError, JudgeRejectsKey, MissingKeyError, ReplayMissError, StoreError
from rlaif_ray.feedback.actors import store_actor
from rlaif_ray.feedback.builtin.launcher import BuiltinJudge
from rlaif_ray.feedback.pool import BACKLOG, FeedbackPool
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.types import Draw, EpisodeRenderer, Label, Verdict

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


def make_pool(
    pools: list[FeedbackPool],
    path: Path,
    base_url: str,
    *,
    run: str = "run",
    renderer: EpisodeRenderer | None = None,
    **overrides: Any,
) -> FeedbackPool:
    config = tiny_config(base_url, **({"feedback__concurrency": 8} | overrides))
    pool = FeedbackPool(config, renderer=renderer or TinyRenderer(), store_path=path / "labels.sqlite", run_id=run)
    pools.append(pool)
    return pool


def stored(path: Path) -> list[Label]:
    with LabelStore(path / "labels.sqlite", readonly=True) as store:
        return store.labels()


async def slowly(seconds: float) -> Any:
    await asyncio.sleep(seconds)
    return completion()


async def once(ready: Callable[[], bool], then_s: float = 0.0) -> Any:
    """An answer some time after it is so, or after a minute all the same."""
    deadline = time.monotonic() + 60.0
    while not ready() and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    return await slowly(then_s)


def until_asked(server: FakeServer, count: int) -> None:
    deadline = time.monotonic() + 120.0
    while server.asked < count and time.monotonic() < deadline:
        time.sleep(0.01)


def test_the_built_in_judge_through_the_pool(
    builtin_judge: BuiltinJudge, pools: list[FeedbackPool], tmp_path: Path
) -> None:
    url = builtin_judge.start("perfect", "feedback_fakes:TinyReader")
    pool = make_pool(
        pools, tmp_path, url, judge__kind="builtin", judge__profile="perfect", feedback__pool_actors=2, budget__usd=1.0
    )
    episodes = [tiny_episode(number, harmful=number % 4 == 0) for number in range(40)]
    chances: list[float] = [0.25 + 0.01 * number for number in range(40)]
    draws: list[Draw] = ["targeted" if number % 2 else "audit" for number in range(40)]
    room = pool.room_at(0)
    assert len(pool.submit(episodes, inclusion_probability=chances, step=1234, draws=draws)) == 40
    assert pool.room_at(0) <= room - pool.in_flight
    assert pool.in_flight > 0
    labels = pool.wait(120.0)
    assert pool.in_flight == 0
    assert sorted(label.episode_id for label in labels) == list(range(40))
    for label in labels:
        assert isinstance(label.outcome, Verdict)
        assert label.outcome.approved is (label.episode_id % 4 != 0)
        assert (label.asked_at_step, label.policy_version) == (1234, 7)
        assert (label.inclusion_probability, label.draw) == (chances[label.episode_id], draws[label.episode_id])
    assert sorted(label.label_id for label in stored(tmp_path)) == sorted(label.label_id for label in labels)
    stats = pool.stats()
    assert (stats.labels, stats.abstained, stats.replayed, stats.failed) == (40, 0, 0, 0)
    assert (stats.cap_usd, stats.labels_left, stats.exhausted) == (1.0, None, False)
    assert stats.latency_s > 0.0
    assert pool.poll() == []


def test_submitting_and_polling_never_wait_for_the_judge(pools: list[FeedbackPool], tmp_path: Path) -> None:
    answering = threading.Event()
    with FakeServer(lambda *_: once(answering.is_set)) as server:
        pool = make_pool(pools, tmp_path, server.base_url)
        started = time.monotonic()
        assert len(pool.submit([tiny_episode(n) for n in range(12)], inclusion_probability=1.0, step=0)) == 12
        assert pool.poll() == []
        assert time.monotonic() - started < 30.0
        until_asked(server, 8)
        assert pool.wait(0.5) == []
        assert server.asked == 8
        answering.set()
        assert len(pool.wait(120.0)) == 12


def test_a_judge_that_does_not_keep_up_is_said_once(pools: list[FeedbackPool], tmp_path: Path) -> None:
    with FakeServer(lambda *_: slowly(0.5)) as server:
        pool = make_pool(pools, tmp_path, server.base_url, feedback__concurrency=1, budget__labels=12)
        most = pool.room_at(0)
        assert most == BACKLOG
        assert len(pool.submit([tiny_episode(n) for n in range(most)], inclusion_probability=1.0, step=0)) == most
        assert (pool.turned_away, pool.notices()) == (0, [])
        assert pool.submit([tiny_episode(n) for n in range(20, 30)], inclusion_probability=1.0, step=0) == []
        assert pool.turned_away == 12 - most  # the budget would have turned the others away
        pool.submit([tiny_episode(40)], inclusion_probability=1.0, step=0)
        (said,) = pool.notices()
        assert said.startswith(f"The judge doesn't keep up: {most} questions wait, at most 1 of them are out at once.")
        assert "feedback.concurrency" in said
        assert len(pool.wait(120.0)) == most
        before = pool.turned_away
        assert len(pool.submit([tiny_episode(n) for n in range(50, 60)], inclusion_probability=1.0, step=0)) == 4
        assert pool.turned_away == before  # that was the budget


def test_a_restart_replays_for_nothing(pools: list[FeedbackPool], tmp_path: Path) -> None:
    episodes = [tiny_episode(n) for n in range(6)]
    with FakeServer(lambda *_: completion()) as server:
        first = make_pool(pools, tmp_path, server.base_url)
        first.submit(episodes, inclusion_probability=1.0, step=0)
        first.wait(120.0)
        first.close()
        second = make_pool(pools, tmp_path, server.base_url)
        assert second.poll() == []
        second.submit([*episodes, tiny_episode(6)], inclusion_probability=1.0, step=9)
        labels = second.wait(120.0)
        assert sorted(label.replayed for label in labels) == [False] + [True] * 6
        assert server.asked == 7
        assert (second.stats().labels, second.stats().replayed) == (7, 6)


def test_replay_only_stops_at_a_question_that_is_not_stored(pools: list[FeedbackPool], tmp_path: Path) -> None:
    with FakeServer(lambda *_: completion()) as server:
        pool = make_pool(pools, tmp_path, server.base_url, judge__replay="only")
        pool.submit([tiny_episode(1)], inclusion_probability=1.0, step=0)
        with pytest.raises(ReplayMissError, match="has no answer to question"):
            pool.wait(120.0)
        assert server.asked == 0


def test_a_judge_that_rejects_the_key_stops_asking_and_says_so_once(
    pools: list[FeedbackPool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINY_KEY", KEY)

    def respond(number: int, _: dict[str, Any]) -> Any:
        if number < 2:
            return completion()
        return web.json_response({"error": {"message": f"bad key {KEY}"}}, status=401)

    with FakeServer(respond) as server:
        pool = make_pool(pools, tmp_path, server.base_url, judge__api_key_env="TINY_KEY", feedback__concurrency=1)
        pool.submit([tiny_episode(n) for n in range(8)], inclusion_probability=1.0, step=0)
        assert len(pool.wait(120.0)) == 2  # what had arrived is handed out first
        with pytest.raises(JudgeRejectsKey) as error:
            pool.poll()
        assert KEY not in str(error.value)
        assert "ray" not in str(error.value)
        assert pool.poll() == []
        assert len(pool.submit([tiny_episode(20)], inclusion_probability=1.0, step=0)) == 0
        assert server.asked == 3
        assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    pool.close()
    logs = Path(ray._private.worker._global_node.get_session_dir_path()) / "logs"
    files = [file for folder in (logs, tmp_path) for file in folder.rglob("*") if file.is_file()]
    assert tmp_path / "labels.sqlite" in files
    assert len(files) > 5
    assert [file for file in files if KEY.encode() in file.read_bytes()] == []


def test_one_question_that_cannot_be_drawn_leaves_the_others_alone(
    pools: list[FeedbackPool], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with FakeServer(lambda *_: completion()) as server:
        pool = make_pool(pools, tmp_path, server.base_url, renderer=BrokenRenderer())
        pool.submit([tiny_episode(n) for n in range(10)], inclusion_probability=1.0, step=0)
        assert sorted(label.episode_id for label in pool.wait(120.0)) == [0, 2, 4, 6, 8]
        assert pool.stats().failed == 5
    assert caplog.text.count("out of ink") == 1


def test_what_does_not_arrive_in_time_is_written_off_at_the_end(pools: list[FeedbackPool], tmp_path: Path) -> None:
    with FakeServer(lambda number, _: slowly(60.0 if number else 0.0)) as server:
        pool = make_pool(pools, tmp_path, server.base_url, budget__labels=10)
        pool.submit([tiny_episode(n) for n in range(3)], inclusion_probability=1.0, step=0)
        until_asked(server, 3)
        deadline = time.monotonic() + 50.0
        while not stored(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.05)
        started = time.monotonic()
        pool.close(grace_s=0.5)
        assert time.monotonic() - started < 30.0
    with LabelStore(tmp_path / "labels.sqlite") as store:
        assert len(store.labels()) == 1
        assert (store.stats().labels, store.stats().reserved_usd) == (3, 0.0)


def test_nothing_new_is_asked_while_closing(pools: list[FeedbackPool], tmp_path: Path) -> None:
    with FakeServer(lambda *_: slowly(0.5)) as server:
        pool = make_pool(pools, tmp_path, server.base_url, feedback__concurrency=2)
        assert len(pool.submit([tiny_episode(n) for n in range(12)], inclusion_probability=1.0, step=0)) == 12
        until_asked(server, 2)
        pool.close(grace_s=60.0)
        assert 2 <= server.asked <= 4  # two at a time: no more than those that began while the word went round
        assert len(stored(tmp_path)) == server.asked  # and what was under way did arrive
        assert not pool.stats().exhausted  # what was let go is not for want of money


def test_a_copy_of_the_file_alone_is_whole_after_closing(pools: list[FeedbackPool], tmp_path: Path) -> None:
    with FakeServer(lambda *_: completion()) as server:
        pool = make_pool(pools, tmp_path, server.base_url)
        pool.submit([tiny_episode(n) for n in range(5)], inclusion_probability=1.0, step=0)
        assert len(pool.wait(120.0)) == 5
        log = tmp_path / "labels.sqlite-wal"
        assert log.stat().st_size > 0
        pool.close()
        assert log.stat().st_size == 0
    (tmp_path / "copy").mkdir()
    shutil.copy(tmp_path / "labels.sqlite", tmp_path / "copy" / "labels.sqlite")
    assert [label.episode_id for label in stored(tmp_path / "copy")] == [label.episode_id for label in stored(tmp_path)]
    assert len(stored(tmp_path / "copy")) == 5


def test_one_limit_for_all_actors_and_runs(pools: list[FeedbackPool], tmp_path: Path) -> None:
    """Ten in flight, over two runs of two actors each, whoever has the work."""
    with FakeServer(lambda *_: once(lambda: server.most_in_flight >= 10, 0.3)) as server:
        settings = {"feedback__pool_actors": 2, "feedback__concurrency": 10}
        first = make_pool(pools, tmp_path, server.base_url, **settings)
        second = make_pool(pools, tmp_path, server.base_url, run="other", **settings)
        first.submit([tiny_episode(n) for n in range(30)], inclusion_probability=1.0, step=0)
        second.submit([tiny_episode(n) for n in range(15, 45)], inclusion_probability=1.0, step=0)
        assert len(first.wait(120.0)) == len(second.wait(120.0)) == 30
        assert server.most_in_flight == 10
        assert server.asked == 45  # fifteen in both: asked once
        assert first.stats().replayed + second.stats().replayed == 15


def test_a_questioners_process_is_small(pools: list[FeedbackPool], tmp_path: Path) -> None:
    with FakeServer(lambda *_: completion()) as server:
        pool = make_pool(pools, tmp_path, server.base_url)

        def loaded(_: Any) -> set[str]:
            import sys

            return {"torch", "ray.rllib", "matplotlib", "pandas"} & set(sys.modules)

        assert ray.get(pool._staff.members[0].actor.__ray_call__.remote(loaded)) == set()


def test_runs_that_share_a_file_share_its_actor(pools: list[FeedbackPool], tmp_path: Path) -> None:
    with FakeServer(lambda *_: completion()) as server:
        make_pool(pools, tmp_path, server.base_url)
        again = store_actor(tmp_path / "labels.sqlite")
        assert again._actor_id == pools[0]._store.actor._actor_id


class Unloadable(TinyRenderer):
    def __reduce__(self) -> tuple[Any, ...]:
        return __import__, ("no_such_module_anywhere",)


def test_a_look_tells_how_asking_stood_then_even_when_the_stores_process_dies(
    pools: list[FeedbackPool], tmp_path: Path
) -> None:
    with FakeServer(lambda *_: completion()) as server:
        pool = make_pool(pools, tmp_path, server.base_url)
        pool.look()
        time.sleep(0.2)  # answered before there is any label
        pool.submit([tiny_episode(number) for number in range(3)], inclusion_probability=1.0, step=0)
        assert len(pool.wait(120.0)) == 3
        assert pool.stats().labels == 0
        assert pool.stats().labels == 3
        ray.kill(store_actor(tmp_path / "labels.sqlite"))
        pool.look()
        assert pool.stats().labels == 3


def test_a_questioner_that_cannot_start_says_why(pools: list[FeedbackPool], tmp_path: Path) -> None:
    pool = make_pool(pools, tmp_path, "http://127.0.0.1:1/v1", renderer=Unloadable())
    pool.submit([tiny_episode(n) for n in range(3)], inclusion_probability=1.0, step=0)
    with pytest.raises(JudgeError, match=r"could not start: .*no_such_module_anywhere"):
        pool.wait(120.0)
    assert pool.in_flight == 0
    assert len(pool.submit([tiny_episode(9)], inclusion_probability=1.0, step=0)) == 0


def test_mistakes_are_told_before_anything_starts(
    pools: list[FeedbackPool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MissingKeyError):
        make_pool(pools, tmp_path, "https://api.example/v1", judge__api_key_env="NOT_SET_ANYWHERE")
    monkeypatch.setenv("TINY_KEY", KEY)
    with pytest.raises(ConfigError, match="price of 'tiny'"):
        make_pool(pools, tmp_path, "https://api.example/v1", judge__api_key_env="TINY_KEY")
    with pytest.raises(ConfigError, match="did you mean 'homegrid-align'"):
        make_pool(pools, tmp_path, "http://127.0.0.1:1/v1", judge__prompt="homegrid-aling")
    (tmp_path / "labels.sqlite").write_bytes(b"not a store" * 500)
    with pytest.raises(StoreError, match="damaged or no label store"):
        make_pool(pools, tmp_path, "http://127.0.0.1:1/v1")


def test_with_the_labels_used_up_what_the_store_knows_is_answered_for_nothing(
    pools: list[FeedbackPool], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with FakeServer(lambda *_: completion()) as server:
        pool = make_pool(pools, tmp_path, server.base_url, budget__labels=3)
        assert pool.submit([tiny_episode(n) for n in range(5)], inclusion_probability=1.0, step=0) == [0, 1, 2]
        assert len(pool.wait(120.0)) == 3
        assert pool.stats().exhausted
        assert pool.stats().exhausted
        again = [replace(tiny_episode(n), episode_id=10 + n) for n in (7, 2, 8, 0)]
        assert pool.submit(again, inclusion_probability=1.0, step=1) == [12, 10]
        assert sorted((label.episode_id, label.replayed) for label in pool.wait(120.0)) == [(10, True), (12, True)]
        assert server.asked == 3
        (notice,) = pool.notices()
        assert notice == "The budget is spent: 3 labels for USD 0.00. Asking is at its end, training goes on."
        assert pool.notices() == []
    assert caplog.text.count("The budget is spent") == 1


def test_what_a_judge_does_not_take_is_told_once_to_the_driver(pools: list[FeedbackPool], tmp_path: Path) -> None:
    def respond(_: int, body: dict[str, Any]) -> Any:
        if body.get("response_format", {}).get("type") == "json_schema":
            return web.json_response({"error": {"message": "response_format json_schema: no"}}, status=400)
        return completion()

    with FakeServer(respond) as server:
        pool = make_pool(pools, tmp_path, server.base_url, feedback__pool_actors=2)
        pool.submit([tiny_episode(n) for n in range(12)], inclusion_probability=1.0, step=0)
        assert len(pool.wait(120.0)) == 12
        (notice,) = pool.notices()
        assert "doesn't take all that was sent: asks for a JSON object instead of a strict JSON schema" in notice
        (manner,) = pool.manners
        assert manner.endswith("/tiny: asks for a JSON object")
